/* SPDX-License-Identifier: MIT */
/* Log-probabilities of tokens in the two forms that clients know: that of chats, and the older one of texts. */
#ifndef SERVER_LOGPROBS_H
#define SERVER_LOGPROBS_H

#include "serving/serving.h"

#include <cjson/cJSON.h>

/* Both take tokens with their logprobs; the text of a piece is not looked at. Null: no memory. */

/* {content: [{token, logprob, bytes, top_logprobs: [{token, logprob, bytes}]}]} */
cJSON *logprobs_chat(struct serving *s, const struct serving_piece *tokens);

/* {tokens, token_logprobs, top_logprobs, text_offset}: lists with one entry for each token. top_logprobs is null when none
 * were asked for; else each entry names the sampled token too. Offsets count characters from the beginning of the answer:
 * *place, at first all zeros, is where the tokens begin, and becomes where they end. */
struct logprobs_place {
    size_t chars;
};
cJSON *logprobs_text(struct serving *s, const struct serving_piece *tokens, struct logprobs_place *place);

#endif
