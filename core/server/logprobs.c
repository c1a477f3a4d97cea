/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "server/logprobs.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "server/app.h"

/* Appends; takes o over. Non-zero: no memory. */
static int put_last(cJSON *list, cJSON *o)
{
    if (list && o && cJSON_AddItemToArray(list, o)) {
        return 0;
    }
    cJSON_Delete(o);
    return -1;
}

static void spell(struct serving *s, int32_t id, struct buf *out)
{
    struct claas_error ignored = ERR_INIT;
    (void)serving_token_text(s, id, out, &ignored); /* an id nobody can spell has no text */
}

/* ---- of chats -------------------------------------------------------------------------------------------------------- */

/* {token, logprob, bytes} of one token. */
static cJSON *token_body(struct serving *s, int32_t id, float logprob)
{
    struct buf text = BUF_INIT;
    cJSON *o = cJSON_CreateObject();
    spell(s, id, &text);
    int failed = app_put(o, "token", app_text(buf_str(&text), text.len)) ||
                 app_put(o, "logprob", cJSON_CreateNumber((double)logprob));
    cJSON *bytes = failed ? NULL : cJSON_AddArrayToObject(o, "bytes");
    failed |= !bytes;
    for (size_t i = 0; !failed && i < text.len; i++) {
        failed = put_last(bytes, cJSON_CreateNumber((unsigned char)text.data[i]));
    }
    buf_clear(&text);
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *token_with_tops(struct serving *s, const struct serving_piece *tokens, uint32_t i)
{
    cJSON *o = token_body(s, tokens->ids[i], tokens->logprobs[i]);
    cJSON *tops = cJSON_AddArrayToObject(o, "top_logprobs");
    int failed = !tops;
    for (uint32_t k = 0; !failed && k < tokens->n_top; k++) {
        size_t at = (size_t)i * tokens->n_top + k;
        failed = put_last(tops, token_body(s, tokens->top_ids[at], tokens->top_logprobs[at]));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

cJSON *logprobs_chat(struct serving *s, const struct serving_piece *tokens)
{
    cJSON *o = cJSON_CreateObject();
    cJSON *content = cJSON_AddArrayToObject(o, "content");
    int failed = !content;
    for (uint32_t i = 0; !failed && i < tokens->n; i++) {
        failed = put_last(content, token_with_tops(s, tokens, i));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* ---- of texts --------------------------------------------------------------------------------------------------------- */

static int is_inside(char c) /* a byte of a character, but not its first */
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

/* Two tokens may be spelt the same (halves of characters): the first one, which is the better one, is kept. */
static int put_named(struct serving *s, cJSON *map, int32_t id, float logprob)
{
    struct buf text = BUF_INIT;
    spell(s, id, &text);
    cJSON *name = app_text(buf_str(&text), text.len);
    int failed = !name;
    if (!failed && !json_get(map, name->valuestring)) {
        failed = app_put(map, name->valuestring, cJSON_CreateNumber((double)logprob));
    }
    cJSON_Delete(name);
    buf_clear(&text);
    return failed;
}

static cJSON *tops_by_name(struct serving *s, const struct serving_piece *tokens, uint32_t i)
{
    cJSON *map = cJSON_CreateObject();
    int failed = !map;
    for (uint32_t k = 0; !failed && k < tokens->n_top; k++) {
        size_t at = (size_t)i * tokens->n_top + k;
        failed = put_named(s, map, tokens->top_ids[at], tokens->top_logprobs[at]);
    }
    if (failed || put_named(s, map, tokens->ids[i], tokens->logprobs[i])) {
        cJSON_Delete(map);
        return NULL;
    }
    return map;
}

/* The name of token i and where it begins; a token that begins inside a character is where that character is. */
static int put_spelt(struct serving *s, int32_t id, cJSON *names, cJSON *offsets, struct logprobs_place *place)
{
    struct buf text = BUF_INIT;
    spell(s, id, &text);
    size_t at = place->chars;
    at -= text.len > 0 && at > 0 && is_inside(text.data[0]);
    for (size_t i = 0; i < text.len; i++) {
        place->chars += !is_inside(text.data[i]);
    }
    int failed = put_last(names, app_text(buf_str(&text), text.len)) || put_last(offsets, app_number(at));
    buf_clear(&text);
    return failed;
}

cJSON *logprobs_text(struct serving *s, const struct serving_piece *tokens, struct logprobs_place *place)
{
    cJSON *o = cJSON_CreateObject();
    cJSON *names = cJSON_AddArrayToObject(o, "tokens");
    cJSON *logprobs = cJSON_AddArrayToObject(o, "token_logprobs");
    cJSON *tops = tokens->n_top > 0 ? cJSON_AddArrayToObject(o, "top_logprobs") : cJSON_AddNullToObject(o, "top_logprobs");
    cJSON *offsets = cJSON_AddArrayToObject(o, "text_offset");
    int failed = !names || !logprobs || !tops || !offsets;
    for (uint32_t i = 0; !failed && i < tokens->n; i++) {
        failed = put_spelt(s, tokens->ids[i], names, offsets, place) ||
                 put_last(logprobs, cJSON_CreateNumber((double)tokens->logprobs[i])) ||
                 (tokens->n_top > 0 && put_last(tops, tops_by_name(s, tokens, i)));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}
