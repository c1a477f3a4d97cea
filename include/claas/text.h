/* SPDX-License-Identifier: MIT */
/* The text kind: tokenizer and chat template of the model, offered by whoever owns them. The core
 * renders every prompt with it, engines see numbers only. All of it is since 0.1. */
#ifndef CLAAS_TEXT_H
#define CLAAS_TEXT_H

#include <claas/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Flags. */
enum {
    CLAAS_GENERATION_PROMPT = 1, /* render: end with the beginning of the assistant's turn */
    CLAAS_SPECIAL = 2 /* encode: special tokens in the text become their ids; decode: they
                       * are spelt, and left out otherwise */
};

/* What an instance knows of its model. The host sets size; pointers live until close. */
struct claas_model {
    uint32_t size;
    uint32_t vocab;   /* ids are below it; 0: unknown */
    uint32_t context; /* tokens; 0: unknown */
    uint32_t n_stop;
    const int32_t *stop_ids; /* [n_stop] tokens that end a turn */
    const char *name;        /* for people and requests */
    const char *base;        /* identity of the weights, compared as text; "": unknown */
    const char *tokenizer;   /* identity of the tokenizer, likewise */
};

/* The table. render is optional. Results go to a sink: int32_t ids in the machine's byte order, or
 * bytes of text. */
struct claas_text {
    uint32_t size;
    uint32_t reserved0;
    /* [call] chat_json: an object with messages, and what else the template takes (tools, ...), as
     * in a chat completion. INVALID: the template refuses the messages. */
    int (*render)(void *self, const char *chat_json, uint32_t flags, struct claas_sink *ids,
                  struct claas_error *err);
    /* [call] n bytes of valid UTF-8. */
    int (*encode)(void *self, const char *text, size_t n, uint32_t flags, struct claas_sink *ids,
                  struct claas_error *err);
    /* [call] What the ids spell: may begin or end within a character, may be no UTF-8 at all, since
     * a model may say so. INVALID: an id outside of the vocabulary. */
    int (*decode)(void *self, const int32_t *ids, size_t n, uint32_t flags, struct claas_sink *text,
                  struct claas_error *err);
};

#ifdef __cplusplus
}
#endif

#endif
