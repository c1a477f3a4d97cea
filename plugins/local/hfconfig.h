/* SPDX-License-Identifier: MIT */
/* config.json and its neighbours in a Hugging Face directory: geometry, ends, chat template. One table row for each
 * architecture; what is in no row is refused by name. */
#ifndef LOCAL_HFCONFIG_H
#define LOCAL_HFCONFIG_H

#include "plugins/local/geometry.h"

#include "base/buf.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum { HFCONFIG_ENDS_MAX = 32 };

struct hfconfig {
    struct model_geometry geometry;
    int tied;
    int32_t bos;                    /* -1: none */
    int32_t eos[HFCONFIG_ENDS_MAX]; /* config.json's and generation_config.json's together, config.json's first first */
    size_t n_eos;
    char *bos_text; /* tokenizer_config.json's spelling; null: none */
    char *eos_text;
    char *chat_template;    /* null: none */
    struct buf config_text; /* config.json as it stands, for the identity */
};

/* Reads `dir`. CORRUPT: not JSON or a wrong type; UNSUPPORTED: an architecture, activation, quantisation … we cannot
 * run, with the key named; NOT_FOUND: no config.json. On an error there is nothing to clear. */
int hfconfig_read(const char *dir, struct hfconfig *out, struct claas_error *err);
void hfconfig_clear(struct hfconfig *c);

#endif
