/* SPDX-License-Identifier: MIT */
/* Parsing of chat and text completion requests. */
#include "config.h"

#include "server/ask.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Members that OpenAI's interface or another server knows and that change the answer, but that are not done here. */
static const char *const ask_unsupported[] = {
    "logit_bias", "suffix", "best_of", "echo", "prediction", "audio", "modalities", "reasoning_effort", "verbosity",
    "web_search_options", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "min_tokens",
    "length_penalty", "use_beam_search", "ignore_eos", "prompt_logprobs", "chat_template", "chat_template_kwargs",
    "tools", "functions",
};

static void ask_warn(struct ask *ask, const char *name, const char *why)
{
    char text[160];
    (void)snprintf(text, sizeof text, "%s: %s", name, why);
    cJSON *item = cJSON_CreateString(text);
    if (!cJSON_AddItemToArray(ask->warnings, item)) {
        cJSON_Delete(item); /* without memory the answer itself will fail */
    }
}

static void ask_cannot(struct check *c, struct ask *ask, int strict, const char *name, const cJSON *v)
{
    if (strict) {
        check_fail(c, name, "unsupported", "Not supported, and strict was asked for", v);
    } else {
        ask_warn(ask, name, "not supported, ignored");
    }
}

/* 1: an empty list, false, zero: as good as absent. */
static int ask_is_nothing(const cJSON *v)
{
    return cJSON_IsFalse(v) || (cJSON_IsNumber(v) && v->valuedouble == 0) ||
           ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child);
}

static void ask_known(const cJSON *body, int chat, struct check *c, struct ask *ask)
{
    int strict = 0;
    check_bool(c, body, "strict", &strict);
    for (size_t i = 0; i < sizeof ask_unsupported / sizeof *ask_unsupported; i++) {
        const cJSON *v = json_get(body, ask_unsupported[i]);
        int one = strcmp(ask_unsupported[i], "best_of") == 0 && cJSON_IsNumber(v) && v->valuedouble == 1;
        if (v && !one && !ask_is_nothing(v)) {
            ask_cannot(c, ask, strict, ask_unsupported[i], v);
        }
    }
    const cJSON *format = json_get(body, "response_format");
    const cJSON *type = json_get(format, "type");
    if (format && (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0)) {
        ask_cannot(c, ask, strict, "response_format", format);
    }
    const cJSON *logprobs = json_get(body, "logprobs");
    if (!chat && cJSON_IsTrue(logprobs)) {
        ask_cannot(c, ask, strict, "logprobs", logprobs); /* of a chat: here it would be a number */
    }
    int64_t n = 1;
    if (check_int(c, body, "n", 1, 1024, &n) && n > 1) {
        check_fail(c, "n", "unsupported", "Only one choice can be asked for", json_get(body, "n"));
    }
}

static void ask_stop(const cJSON *body, struct check *c, struct ask *ask)
{
    const cJSON *stop = json_get(body, "stop");
    const cJSON *one = cJSON_IsArray(stop) ? stop->child : stop;
    if (stop && !cJSON_IsArray(stop) && !cJSON_IsString(stop)) {
        check_fail(c, "stop", "string_type", "Input should be a valid string or a list of strings", stop);
        return;
    }
    for (; one; one = cJSON_IsArray(stop) ? one->next : NULL) {
        if (!cJSON_IsString(one) || !one->valuestring[0]) {
            check_fail(c, "stop", "string_type", "Input should be a valid string, not empty", one);
            return;
        }
        if (ask->request.params.n_stop == ASK_STOPS) {
            check_fail(c, "stop", "too_long", "List should have at most 16 items after validation", stop);
            return;
        }
        ask->stops[ask->request.params.n_stop++] = one->valuestring;
    }
}

static void ask_stop_ids(const cJSON *body, struct check *c, struct ask *ask)
{
    const cJSON *list = NULL;
    const cJSON *one;
    if (!check_list(c, body, "stop_token_ids", 0, 0, &list)) {
        return;
    }
    cJSON_ArrayForEach(one, list)
    {
        double v = cJSON_IsNumber(one) ? one->valuedouble : -1;
        if (!(v >= 0 && v <= INT32_MAX && v == floor(v)) || ask->request.params.n_stop_ids == ASK_STOP_IDS) {
            check_fail(c, "stop_token_ids", "int_type", "Input should be a list of at most 64 token ids", one);
            return;
        }
        ask->stop_ids[ask->request.params.n_stop_ids++] = (int32_t)v;
    }
}

static void ask_params(const cJSON *body, struct check *c, struct ask *ask)
{
    struct serving_params *p = &ask->request.params;
    int64_t seed = 0;
    serving_params_default(p);
    check_int(c, body, "max_tokens", 1, INT32_MAX, &p->max_tokens);
    check_int(c, body, "max_completion_tokens", 1, INT32_MAX, &p->max_tokens);
    check_real(c, body, "temperature", 0, 2, &p->temperature);
    check_real(c, body, "top_p", 0, 1, &p->top_p);
    check_real(c, body, "min_p", 0, 1, &p->min_p);
    check_int(c, body, "top_k", -1, INT32_MAX, &p->top_k);
    check_real(c, body, "repetition_penalty", 0.01, 10, &p->repetition);
    check_real(c, body, "presence_penalty", -2, 2, &p->presence);
    check_real(c, body, "frequency_penalty", -2, 2, &p->frequency);
    if (check_int(c, body, "seed", -(1LL << 53), 1LL << 53, &seed)) {
        p->seed = (uint64_t)seed;
        p->has_seed = 1;
    }
    if (p->top_p <= 0) {
        check_fail(c, "top_p", "greater_than", "Input should be greater than 0", json_get(body, "top_p"));
    }
    ask_stop(body, c, ask);
    ask_stop_ids(body, c, ask);
    p->stop = ask->stops;
    p->stop_ids = ask->stop_ids;
}

/* Of a chat a switch and a number; of a text one number, and 0 asks for the tokens' own. */
static void ask_logprobs(const cJSON *body, int chat, struct check *c, struct ask *ask)
{
    int64_t top = 0;
    if (chat) {
        check_bool(c, body, "logprobs", &ask->logprobs);
        ask->top_unsaid = !check_int(c, body, "top_logprobs", 0, ASK_TOP, &top) && ask->logprobs;
    } else if (!cJSON_IsBool(json_get(body, "logprobs"))) {
        ask->logprobs = check_int(c, body, "logprobs", 0, ASK_TOP, &top);
    }
    ask->request.params.n_top = ask->logprobs ? (uint32_t)top : 0;
}

/* Only text can be read: parts of other kinds and calls of tools are left out, as ever, but not in silence. */
static void ask_parts(const cJSON *message, struct ask *ask)
{
    const cJSON *content = json_get(message, "content");
    const cJSON *calls = json_get(message, "tool_calls");
    const cJSON *part;
    if (calls && !ask_is_nothing(calls)) {
        ask_warn(ask, "messages", "calls of tools were left out");
    }
    cJSON_ArrayForEach(part, content)
    {
        const cJSON *type = json_get(part, "type");
        if (cJSON_IsString(type) && strcmp(type->valuestring, "text") != 0 && !cJSON_IsString(json_get(part, "text"))) {
            ask_warn(ask, "messages", "a content part that is not text was left out");
        }
    }
}

static void ask_messages(const cJSON *body, struct check *c, struct ask *ask)
{
    const cJSON *list = NULL;
    const cJSON *m;
    const char *role = NULL;
    long i = 0;
    if (!check_list(c, body, "messages", 1, 1, &list)) {
        return;
    }
    size_t was = check_enter(c, "messages", 0);
    cJSON_ArrayForEach(m, list)
    {
        size_t inner = check_enter(c, NULL, i++);
        if (!cJSON_IsObject(m)) {
            check_fail(c, "", "model_attributes_type",
                       "Input should be a valid dictionary or object to extract fields from", m);
        } else {
            check_text(c, m, "role", 1, 1, &role);
            ask_parts(m, ask);
        }
        check_leave(c, inner);
        if (c->list && cJSON_GetArraySize(c->list) > 16) {
            break;
        }
    }
    check_leave(c, was);
    ask->request.messages = list;
}

/* A text, or a list with one. */
static void ask_prompt(const cJSON *body, struct check *c, struct ask *ask)
{
    const cJSON *prompt = json_get(body, "prompt");
    const cJSON *one = cJSON_IsArray(prompt) && cJSON_GetArraySize(prompt) == 1 ? prompt->child : prompt;
    if (!prompt) {
        check_fail(c, "prompt", "missing", "Field required", body);
    } else if (!cJSON_IsString(one)) {
        check_fail(c, "prompt", "string_type", "Input should be a valid string", one);
    } else {
        ask->request.prompt = one->valuestring;
        ask->request.prompt_bytes = strlen(one->valuestring);
    }
}

void ask_parse(const cJSON *body, int chat, struct check *c, struct ask *out)
{
    memset(out, 0, sizeof *out);
    out->warnings = cJSON_CreateArray();
    if (!out->warnings) {
        c->failed = 1;
    }
    out->request.model = "";
    check_text(c, body, "model", 0, 0, &out->request.model);
    if (check_text(c, body, "user", 0, 0, &out->request.user) && strlen(out->request.user) > ASK_USER_BYTES) {
        check_fail(c, "user", "string_too_long", "String should have at most 256 bytes", json_get(body, "user"));
    }
    ask_params(body, c, out);
    check_bool(c, body, "stream", &out->stream);
    const cJSON *options = NULL;
    if (check_object(c, body, "stream_options", 0, &options)) {
        size_t was = check_enter(c, "stream_options", 0);
        check_bool(c, options, "include_usage", &out->usage);
        check_leave(c, was);
    }
    ask_logprobs(body, chat, c, out);
    if (chat) {
        ask_messages(body, c, out);
    } else {
        ask_prompt(body, c, out);
    }
    ask_known(body, chat, c, out);
}

void ask_clear(struct ask *ask)
{
    cJSON_Delete(ask->warnings);
    ask->warnings = NULL;
}
