/* SPDX-License-Identifier: MIT */
/* The body of a chat or text completion, as OpenAI's clients send it, to a serving request. */
#ifndef SERVER_ASK_H
#define SERVER_ASK_H

#include "server/check.h"
#include "serving/serving.h"

#include <cjson/cJSON.h>

enum { ASK_STOPS = 16, ASK_STOP_IDS = 64, ASK_TOP = 20, ASK_USER_BYTES = 256 };

struct ask { /* borrows from the body */
    struct serving_request request; /* without stream and call */
    const char *stops[ASK_STOPS];
    int32_t stop_ids[ASK_STOP_IDS];
    int stream, usage;              /* stream_options.include_usage */
    int logprobs;
    int top_unsaid;                 /* log-probabilities without a number of alternatives: existing clients expect one */
    cJSON *warnings;                /* array of texts, owned; may be empty */
};

/* Violations go into *c; what is known but cannot be done is a warning, or under strict: true a violation. */
void ask_parse(const cJSON *body, int chat, struct check *c, struct ask *out);
void ask_clear(struct ask *ask);

#endif
