/* SPDX-License-Identifier: MIT */
/* The heartbeat of long work: at each layer boundary it lets others have the device, looks whether the call was
 * cancelled, and reports progress. */
#ifndef LOCAL_PULSE_H
#define LOCAL_PULSE_H

#include "kernels/kernels.h"

#include <claas/host.h>

struct pulse {
    struct kernels *kernels;
    const struct claas_call *call; /* null: never cancelled, nobody told */
    uint64_t done;
    uint64_t total;
    const char *what;
};

/* CANCELLED when the call has no time left. */
int pulse_beat(struct pulse *p, struct claas_error *err);

#endif
