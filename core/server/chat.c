/* SPDX-License-Identifier: MIT */
/* POST /v1/chat/completions and /v1/completions: one answer whole, or as a stream of events. */
#include "config.h"

#include "server/app.h"
#include "server/ask.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "server/errors.h"
#include "server/logprobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct chat {
    struct app *app;
    struct http_request *r;
    struct serving *serving;
    struct ask ask;
    int has_begun;                  /* the first token has come */
    int chat;                       /* 0: a text completion */
    struct serving_receipt receipt; /* known from begin on */
    struct logprobs_place place;    /* behind the tokens told so far */
};

/* ---- parts of an answer ------------------------------------------------------------------------------------------------- */

static cJSON *chat_receipt(const struct serving_receipt *s)
{
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "adapter", cJSON_CreateString(s->adapter)) || app_put(o, "version", app_number(s->version)) ||
        app_put(o, "digest", app_digest(&s->serve))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* What every object of an answer begins with. */
static cJSON *chat_frame(const struct chat *c, const char *object)
{
    cJSON *o = cJSON_CreateObject();
    const char *model = c->ask.request.model;
    if (app_put(o, "id", cJSON_CreateString(c->receipt.id)) || app_put(o, "object", cJSON_CreateString(object)) ||
        app_put(o, "created", cJSON_CreateNumber((double)(c->receipt.created_ns / 1000000000))) ||
        app_put(o, "model", cJSON_CreateString(model[0] ? model : "default"))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *chat_usage(const struct serving_answer *a)
{
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "prompt_tokens", app_number(a->receipt.n_prompt)) ||
        app_put(o, "completion_tokens", app_number(a->n_response)) ||
        app_put(o, "total_tokens", app_number((uint64_t)a->receipt.n_prompt + a->n_response))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* choices[0].logprobs: null when not asked for or not known. */
static cJSON *chat_logprobs(struct chat *c, const struct serving_piece *tokens)
{
    if (!c->ask.logprobs || !tokens->logprobs) {
        return cJSON_CreateNull();
    }
    return c->chat ? logprobs_chat(c->serving, tokens) : logprobs_text(c->serving, tokens, &c->place);
}

/* The same of a whole answer: the end of turn is left out, since it spells nothing. */
static cJSON *chat_logprobs_whole(struct chat *c, const struct serving_answer *a)
{
    const struct serving_piece all = {
        .ids = a->response_ids, .logprobs = a->logprobs, .top_ids = a->top_ids, .top_logprobs = a->top_logprobs,
        .n = a->n_response - (a->end_tokens < a->n_response ? a->end_tokens : a->n_response), .n_top = a->n_top,
    };
    return chat_logprobs(c, &all);
}

/* A choice; takes `text` (under `name`) and logprobs over. finish null: not yet. */
static cJSON *chat_choice(const char *name, cJSON *text, const char *finish, cJSON *logprobs)
{
    cJSON *list = cJSON_CreateArray();
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "index", cJSON_CreateNumber(0)) | app_put(o, name, text) |
                 app_put(o, "finish_reason", finish ? cJSON_CreateString(finish) : cJSON_CreateNull()) |
                 app_put(o, "logprobs", logprobs);
    if (failed || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        cJSON_Delete(list);
        return NULL;
    }
    return list;
}

static int chat_warnings(const struct chat *c, cJSON *o)
{
    return c->ask.warnings->child ? app_put(o, "warnings", cJSON_Duplicate(c->ask.warnings, 1)) : 0;
}

/* ---- the whole answer ----------------------------------------------------------------------------------------------------- */

static cJSON *chat_whole(struct chat *c, const struct serving_answer *a)
{
    cJSON *o = chat_frame(c, c->chat ? "chat.completion" : "text_completion");
    cJSON *text = app_text(a->visible ? a->visible : "", a->visible ? strlen(a->visible) : 0);
    if (c->chat) {
        cJSON *message = cJSON_CreateObject();
        if (app_put(message, "role", cJSON_CreateString("assistant")) | app_put(message, "content", text)) {
            cJSON_Delete(message);
            message = NULL;
        }
        text = message;
    }
    cJSON *choices = chat_choice(c->chat ? "message" : "text", text, a->finish, chat_logprobs_whole(c, a));
    if (app_put(o, "choices", choices) || app_put(o, "usage", chat_usage(a)) || app_put(o, "claas", chat_receipt(&a->receipt)) ||
        chat_warnings(c, o)) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* ---- the stream ------------------------------------------------------------------------------------------------------------ */

/* Sends one event; takes o over. Non-zero: stop. */
static int chat_event(const struct chat *c, cJSON *o)
{
    char *text = o ? json_print(o) : NULL;
    struct buf line = BUF_INIT;
    cJSON_Delete(o);
    buf_adds(&line, "data: ");
    buf_adds(&line, text ? text : "");
    buf_adds(&line, "\n\n");
    int rc = !text || line.failed ? -1 : http_stream_write(c->r, line.data, line.len);
    buf_clear(&line);
    free(text);
    return rc;
}

/* A chunk that carries text; `role` only in the first one. */
static cJSON *chat_chunk(const struct chat *c, int role, const char *text, size_t n, const char *finish, cJSON *logprobs)
{
    cJSON *o = chat_frame(c, c->chat ? "chat.completion.chunk" : "text_completion");
    cJSON *carried = text ? app_text(text, n) : NULL;
    if (c->chat) {
        cJSON *delta = cJSON_CreateObject();
        int failed = role && app_put(delta, "role", cJSON_CreateString("assistant"));
        failed |= text && app_put(delta, "content", carried);
        if (failed) {
            cJSON_Delete(delta);
            delta = NULL;
        }
        carried = delta;
    } else if (!text) {
        carried = cJSON_CreateString("");
    }
    if (app_put(o, "choices", chat_choice(c->chat ? "delta" : "text", carried, finish, logprobs))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* [a plugin's thread] */
static int chat_begin(void *ctx, const struct serving_receipt *receipt)
{
    struct chat *c = ctx;
    c->receipt = *receipt;
    if (http_gone(c->r)) {
        return 1;
    }
    if (!c->ask.stream) {
        return 0;
    }
    if (http_stream_begin(c->r)) {
        return 1;
    }
    cJSON *first = chat_chunk(c, 1, "", 0, NULL, cJSON_CreateNull());
    if (first && app_put(first, "claas", chat_receipt(receipt))) {
        cJSON_Delete(first);
        first = NULL;
    }
    return chat_event(c, first);
}

/* [a plugin's thread] */
static int chat_piece(void *ctx, const struct serving_piece *piece)
{
    struct chat *c = ctx;
    if (!c->has_begun) {
        c->has_begun = 1;
        metrics_took(&c->app->metrics.first_token, clock_mono_ns() - http_begun_ns(c->r));
    }
    if (http_gone(c->r)) {
        return 1;
    }
    if (!c->ask.stream || (piece->text_bytes == 0 && piece->n == 0)) {
        return 0;
    }
    return chat_event(c, chat_chunk(c, 0, piece->text, piece->text_bytes, NULL, chat_logprobs(c, piece)));
}

/* The last events: how it ended, use of tokens, the mark. A client that has left by now has
 * what it wanted, so the result of writing is not looked at. */
static void chat_finish(const struct chat *c, const struct serving_answer *a, const struct claas_error *err)
{
    if (err) {
        (void)chat_event(c, error_body(err_http_status(err->code), err_name(err->code), err->message, err->what));
    } else {
        cJSON *last = chat_chunk(c, 0, NULL, 0, a->finish, cJSON_CreateNull());
        if (last && (app_put(last, "claas", chat_receipt(&a->receipt)) || chat_warnings(c, last))) {
            cJSON_Delete(last);
            last = NULL;
        }
        (void)chat_event(c, last);
        if (c->ask.usage) {
            cJSON *usage = chat_frame(c, c->chat ? "chat.completion.chunk" : "text_completion");
            if (app_put(usage, "choices", cJSON_CreateArray()) || app_put(usage, "usage", chat_usage(a))) {
                cJSON_Delete(usage);
                usage = NULL;
            }
            (void)chat_event(c, usage);
        }
    }
    (void)http_stream_write(c->r, "data: [DONE]\n\n", 14);
    http_stream_end(c->r);
}

/* ---- handlers --------------------------------------------------------------------------------------------------------------- */

static void chat_run(struct chat *c)
{
    struct serving_answer a = { 0 };
    struct claas_error err = ERR_INIT;
    const struct serving_stream stream = { .ctx = c, .begin = chat_begin, .piece = chat_piece,
                                           .tokens = c->ask.stream && c->ask.logprobs };
    c->ask.request.stream = &stream;
    c->ask.request.call = http_call(c->r);
    c->ask.request.owner = http_caller(c->r)->key;
    c->ask.request.prefix = http_caller(c->r)->prefix;
    http_deadline(c->r, app_config(c->app, c->r)->limits.request_timeout_ms);
    int rc = c->chat ? serving_chat(c->serving, &c->ask.request, &a, &err)
                     : serving_complete(c->serving, &c->ask.request, &a, &err);
    if (rc == 0) {
        c->receipt = a.receipt;
        (void)atomic_fetch_add(&c->app->metrics.prompt_tokens, a.receipt.n_prompt);
        (void)atomic_fetch_add(&c->app->metrics.completion_tokens, a.n_response);
    }
    if (http_stream_begun(c->r)) {
        chat_finish(c, &a, rc ? &err : NULL);
    } else if (rc) {
        http_fail(c->r, &err);
    } else {
        http_answer(c->r, 200, chat_whole(c, &a));
    }
    serving_answer_clear(&a);
}

static void chat_handle(struct app *app, struct http_request *r, int chat)
{
    struct chat c = { .app = app, .r = r, .chat = chat };
    struct check check = CHECK_INIT("body");
    ask_parse(http_body(r), chat, &check, &c.ask);
    if (!app_refused(r, &check) && (c.serving = app_serving(app, r)) != NULL) {
        if (c.ask.stream) {
            http_header(r, "X-Accel-Buffering", "no");
        }
        if (c.ask.top_unsaid && serving_max_top(c.serving) > 0) {
            c.ask.request.params.n_top = 1;
        }
        chat_run(&c);
    }
    ask_clear(&c.ask);
}

void chat_answer(void *app, struct http_request *r)
{
    chat_handle(app, r, 1);
}

void chat_complete(void *app, struct http_request *r)
{
    chat_handle(app, r, 0);
}
