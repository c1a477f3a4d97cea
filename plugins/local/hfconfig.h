/* SPDX-License-Identifier: MIT */
/* config.json and its neighbours in a Hugging Face directory: geometry, ends, chat template. One table row for each
 * architecture; what is in no row is refused by name. */
#ifndef LOCAL_HFCONFIG_H
#define LOCAL_HFCONFIG_H

#include "tensor.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum { HFCONFIG_ENDS_MAX = 16 };

struct hfconfig {
    struct model_geometry geometry; /* inv_freq stands in `inv_freq` */
    float *inv_freq;
    int32_t bos; /* -1: none */
    int32_t eos[HFCONFIG_ENDS_MAX]; /* config.json's and generation_config.json's together */
    size_t n_eos;
    char *chat_template; /* null: none */
};

/* Reads `dir`. CORRUPT: not JSON or a wrong type; UNSUPPORTED: an architecture, activation, quantisation … we cannot
 * run, with the key named; NOT_FOUND: no config.json. */
int hfconfig_read(const char *dir, struct hfconfig *out, struct claas_error *err);
void hfconfig_clear(struct hfconfig *c);

/* The checks that hold for every source, and inv_freq for a plain rotation. `what` is the file for messages. */
int model_geometry_check(const struct model_geometry *g, const char *what, struct claas_error *err);

#endif
