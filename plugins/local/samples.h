/* SPDX-License-Identifier: MIT */
/* Checks of what a training call is given, before anything is read or computed for it. */
#ifndef LOCAL_SAMPLES_H
#define LOCAL_SAMPLES_H

#include "plugins/local/instance.h"

#include <claas/engine.h>

/* INVALID, with the field as `what` and the number of the sample in the message: no response, ids out of range, missing
 * or impossible log-probabilities, teacher or advantages missing for the objective, lengths beyond the context;
 * UNSUPPORTED: an unknown objective. */
int samples_check(const struct instance *self, const struct claas_train *train, struct claas_error *err);

#endif
