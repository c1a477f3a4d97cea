/* SPDX-License-Identifier: MIT */
/* The text kind: tokenizer and chat template of the model. */
#ifndef CLAAS_TEXT_H
#define CLAAS_TEXT_H

#include <claas/host.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLAAS_GENERATION_PROMPT = 1, CLAAS_SPECIAL = 2 };
struct claas_model {
    uint32_t size, vocab, context, n_stop;
    const int32_t *stop_ids;
    const char *name, *base, *tokenizer;   /* base, tokenizer: identities compared as text, "" = unknown: host probes */
};
struct claas_text {                /* all optional but encode and decode; results are int32_t ids or UTF-8 */
    uint32_t size, reserved0;
    int (*render)(void *self, const char *chat_json, uint32_t flags, struct claas_sink *ids, struct claas_error *);
    int (*encode)(void *self, const char *text, size_t n, uint32_t flags, struct claas_sink *ids, struct claas_error *);
    int (*decode)(void *self, const int32_t *ids, size_t n, uint32_t flags, struct claas_sink *text, struct claas_error *);
};

#ifdef __cplusplus
}
#endif

#endif
