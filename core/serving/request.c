/* SPDX-License-Identifier: MIT */
/* From what a client asks to what an inference plugin is given: parameters in their bounds, messages as text, ids,
 * and the room an answer has. */
#include "config.h"

#include "serving/internal.h"

#include "base/err.h"
#include "base/json.h"
#include "text/template.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STOP_MAX = 64, STOP_BYTES_MAX = 1024, MESSAGES_MAX = 10000 };

void serving_params_default(struct serving_params *p)
{
    *p = (struct serving_params){ .max_tokens = -1, .temperature = 1, .top_p = 1, .repetition = 1 };
}

int serving_ready(const struct serving *s, struct claas_error *err)
{
    if (s->inference == NULL) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "engine", "cannot answer: no engine configured");
    }
    if (s->text == NULL || !host_has(s->text, text, encode)) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "engine",
                       "cannot answer: neither engine nor inference plugin has a tokenizer");
    }
    return 0;
}

static int in_range(double v, double min, double max, const char *what, struct claas_error *err)
{
    if (isfinite(v) && v >= min && v <= max) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_INVALID, what, "'%s' is %g: it must be from %g to %g", what, v, min, max);
}

static int stops_check(const struct serving_params *p, struct claas_error *err)
{
    if (p->n_stop > STOP_MAX || p->n_stop_ids > STOP_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "stop", "'stop' has %u entries: at most %d are possible",
                       p->n_stop > p->n_stop_ids ? p->n_stop : p->n_stop_ids, (int)STOP_MAX);
    }
    for (uint32_t i = 0; i < p->n_stop; i++) {
        size_t n = strlen(p->stop[i]);
        if (n == 0 || n > STOP_BYTES_MAX) {
            return err_set(err, CLAAS_ERR_INVALID, "stop", "'stop' has an entry of %zu bytes: 1 to %d are possible", n,
                           (int)STOP_BYTES_MAX);
        }
    }
    return 0;
}

static int stop_ids_check(const struct serving *s, const struct serving_params *p, struct claas_error *err)
{
    struct claas_model model = { .size = sizeof model };
    uint32_t vocab = host_model(s->inference, &model, NULL) == 0 ? model.vocab : 0; /* 0: only the plugin knows */
    for (uint32_t i = 0; i < p->n_stop_ids; i++) {
        int32_t id = p->stop_ids[i];
        if (id < 0 || (vocab > 0 && (uint32_t)id >= vocab)) {
            return err_set(err, CLAAS_ERR_INVALID, "stop_token_ids", "'stop_token_ids' has %d, which is no token id",
                           (int)id);
        }
    }
    return 0;
}

uint32_t serving_max_top(const struct serving *s)
{
    struct claas_inference_info info = { .size = sizeof info };
    if (s->inference == NULL || host_inference_info(s->inference, &info, NULL) != 0) {
        return 0;
    }
    return info.flags & CLAAS_CAN_TOP ? info.max_top : 0;
}

int params_check(const struct serving *s, const struct serving_params *p, const char *top, struct claas_error *err)
{
    int rc = in_range(p->temperature, 0, 100, "temperature", err);
    rc = rc != 0 ? rc : in_range(p->top_p, 1e-6, 1, "top_p", err);
    rc = rc != 0 ? rc : in_range(p->min_p, 0, 1, "min_p", err);
    rc = rc != 0 ? rc : in_range(p->repetition, 0.01, 100, "repetition_penalty", err);
    rc = rc != 0 ? rc : in_range(p->presence, -2, 2, "presence_penalty", err);
    rc = rc != 0 ? rc : in_range(p->frequency, -2, 2, "frequency_penalty", err);
    rc = rc != 0 ? rc : in_range((double)p->top_k, -1, INT32_MAX, "top_k", err);
    if (rc == 0 && p->max_tokens == 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, "max_tokens", "'max_tokens' is 0: it must be at least 1");
    }
    rc = rc != 0 ? rc : stops_check(p, err);
    rc = rc != 0 ? rc : stop_ids_check(s, p, err);
    if (rc != 0 || p->n_top == 0) {
        return rc;
    }
    uint32_t most = serving_max_top(s);
    if (p->n_top > most) {
        rc = err_set(err, CLAAS_ERR_INVALID, top, "'%s' is %u: this server gives at most %u", top, p->n_top, most);
    }
    return rc;
}

/* ---- messages -------------------------------------------------------------------------------- */

static int message_add(cJSON *list, const cJSON *message, int number, struct claas_error *err)
{
    const cJSON *role = cJSON_IsObject(message) ? json_get(message, "role") : NULL;
    if (!cJSON_IsString(role)) {
        return err_set(err, CLAAS_ERR_INVALID, "messages",
                       "message %d is not an object with a 'role' that is text", number);
    }
    struct buf content = BUF_INIT;
    int rc = text_content_coerce(json_get(message, "content"), &content, err);
    cJSON *copy = rc == 0 ? cJSON_Duplicate(message, 1) : NULL;
    cJSON *text = copy != NULL && !content.failed ? cJSON_CreateString(buf_str(&content)) : NULL;
    buf_clear(&content);
    if (rc != 0) {
        return rc;
    }
    if (text == NULL) {
        cJSON_Delete(copy);
        return err_oom(err, "the messages of a request");
    }
    cJSON_DeleteItemFromObjectCaseSensitive(copy, "content");
    cJSON_DeleteItemFromObjectCaseSensitive(copy, "tool_calls"); /* no template here can show them */
    if (!cJSON_AddItemToObject(copy, "content", text)) {
        cJSON_Delete(text);
        cJSON_Delete(copy);
        return err_oom(err, "the messages of a request");
    }
    if (!cJSON_AddItemToArray(list, copy)) {
        cJSON_Delete(copy);
        return err_oom(err, "the messages of a request");
    }
    return 0;
}

int messages_normalise(const cJSON *messages, cJSON **out, struct claas_error *err)
{
    int n = cJSON_IsArray(messages) ? cJSON_GetArraySize(messages) : 0;
    if (n < 1 || n > MESSAGES_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "messages", "'messages' must be a list of 1 to %d messages",
                       (int)MESSAGES_MAX);
    }
    cJSON *chat = cJSON_CreateObject();
    cJSON *list = chat == NULL ? NULL : cJSON_AddArrayToObject(chat, "messages");
    if (list == NULL) {
        cJSON_Delete(chat);
        return err_oom(err, "the messages of a request");
    }
    int rc = 0;
    int number = 1;
    const cJSON *message;
    cJSON_ArrayForEach(message, messages) {
        rc = message_add(list, message, number, err);
        if (rc != 0) {
            break;
        }
        number++;
    }
    if (rc != 0) {
        cJSON_Delete(chat);
        return rc;
    }
    *out = chat;
    return 0;
}

int messages_render(struct serving *s, const cJSON *chat, struct host_ids *out, struct claas_error *err)
{
    char *text = json_print(chat);
    if (text == NULL) {
        return err_oom(err, "the messages of a request");
    }
    int rc = host_text_render(s->text, text, CLAAS_GENERATION_PROMPT, out, err);
    free(text);
    if (rc == 0 && out->n == 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, "messages", "the messages make an empty prompt");
    }
    return rc;
}

int room_for(struct serving *s, size_t n_prompt, int64_t wanted, const char *what, uint32_t *out,
             struct claas_error *err)
{
    struct claas_model model = { .size = sizeof model };
    uint32_t context = host_model(s->inference, &model, NULL) == 0 ? model.context : 0; /* 0: only the plugin knows */
    if (n_prompt > INT32_MAX || (context > 0 && n_prompt >= context)) {
        return err_set(err, CLAAS_ERR_INVALID, what,
                       "the prompt has %zu tokens, which leaves no room for an answer in the model's context of %u",
                       n_prompt, context);
    }
    if (s->prompt_tokens > 0 && n_prompt > s->prompt_tokens) {
        return err_set(err, CLAAS_ERR_INVALID, what, "the prompt has %zu tokens: at most %u are allowed here", n_prompt,
                       s->prompt_tokens);
    }
    int64_t room = context > 0 ? (int64_t)context - (int64_t)n_prompt : INT32_MAX;
    if (s->max_tokens > 0 && room > s->max_tokens) {
        room = s->max_tokens;
    }
    if (wanted < 0 && s->default_tokens > 0) {
        wanted = s->default_tokens;
    }
    *out = (uint32_t)(wanted >= 0 && wanted < room ? wanted : room);
    return 0;
}

static int add_number(cJSON *o, const char *name, double v)
{
    return cJSON_AddNumberToObject(o, name, v) != NULL;
}

char *params_json(const struct serving_params *p, uint32_t max_tokens, uint64_t seed)
{
    cJSON *o = cJSON_CreateObject();
    struct buf digits = BUF_INIT; /* a double would lose the last bits of the seed */
    buf_addf(&digits, "%llu", (unsigned long long)seed);
    int ok = o != NULL && !digits.failed && add_number(o, "temperature", p->temperature) &&
             add_number(o, "top_p", p->top_p) && add_number(o, "top_k", (double)p->top_k) &&
             add_number(o, "min_p", p->min_p) && add_number(o, "repetition_penalty", p->repetition) &&
             add_number(o, "presence_penalty", p->presence) && add_number(o, "frequency_penalty", p->frequency) &&
             add_number(o, "max_tokens", max_tokens) && cJSON_AddRawToObject(o, "seed", buf_str(&digits)) != NULL;
    if (ok && p->n_stop > 0) {
        cJSON *stop = cJSON_CreateStringArray(p->stop, (int)p->n_stop);
        ok = stop != NULL && cJSON_AddItemToObject(o, "stop", stop);
    }
    if (ok && p->n_stop_ids > 0) {
        cJSON *ids = cJSON_CreateIntArray((const int *)p->stop_ids, (int)p->n_stop_ids);
        ok = ids != NULL && cJSON_AddItemToObject(o, "stop_token_ids", ids);
    }
    char *text = ok ? json_print(o) : NULL;
    buf_clear(&digits);
    cJSON_Delete(o);
    return text;
}
