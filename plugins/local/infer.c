/* SPDX-License-Identifier: MIT */
/* The inference table: answers token by token, scores, versions loaded and unloaded. A request is checked when it comes
 * and answered by one of the queue's threads; it holds its adapter until it is done, so that it ends on the version it
 * began with. */
#include "config.h"

#include "plugins/local/instance.h"

#include "plugins/local/answer.h"
#include "plugins/local/decode.h"
#include "plugins/local/queue.h"
#include "plugins/local/sample.h"
#include "plugins/local/score.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static int infer_info(void *self, struct claas_inference_info *out, struct claas_error *err)
{
    (void)self;
    (void)err;
    *out = (struct claas_inference_info){ .size = sizeof *out, .flags = CLAAS_CAN_SCORE | CLAAS_CAN_TOP,
                                          .max_top = INSTANCE_TOP_MAX, .formats = instance_formats };
    return 0;
}

/* ---- a request ---- */

struct request {
    struct queue_job job; /* first: the queue hands out pointers to it */
    struct instance *self;
    const struct claas_generate *ask;  /* these two live until done() returned */
    const struct claas_stream *stream;
    struct sampler *sampler;
    struct answer answer;
    int32_t *stops;                    /* ids that end this answer */
    size_t n_stops;
    size_t most;                       /* tokens of the answer */
    size_t least;                      /* before which no stop id is chosen */
    int32_t *top_ids;                  /* [n_top] of the newest token */
    float *top_logprobs;
    int64_t tended_ns;                 /* when waiting requests were last looked after */
};

static void request_free(struct request *r)
{
    if (r) {
        sampler_free(r->sampler);
        answer_clear(&r->answer);
        free(r->stops);
        free(r->top_ids);
        free(r->top_logprobs);
        free(r);
    }
}

static int is_stop(const struct request *r, int32_t id)
{
    for (size_t i = 0; i < r->n_stops; i++) {
        if (r->stops[i] == id) {
            return 1;
        }
    }
    return 0;
}

/* Fields the core does not know: two are honoured, the rest is refused by name. */
static int read_extra(struct request *r, int *out_ignore_ends, struct claas_error *err)
{
    cJSON *extra = NULL;
    int64_t least = 0;
    const char *text = r->ask->extra_json;
    if (!text || !*text) {
        return 0;
    }
    int rc = json_parse(text, strlen(text), "extra", &extra, err);
    for (const cJSON *v = rc ? NULL : extra->child; v && !rc; v = v->next) {
        if (!v->string || (strcmp(v->string, "min_tokens") != 0 && strcmp(v->string, "ignore_eos") != 0)) {
            rc = err_set(err, CLAAS_ERR_UNSUPPORTED, v->string, "'%.60s' is not supported here",
                         v->string ? v->string : "");
        }
    }
    rc = rc ? rc : json_get_int(extra, "min_tokens", 0, INT32_MAX, &least, err);
    rc = rc ? rc : json_get_bool(extra, "ignore_eos", out_ignore_ends, err);
    r->least = (size_t)least;
    cJSON_Delete(extra);
    return rc;
}

static int set_stops(struct request *r, int ignore_ends, struct claas_error *err)
{
    const struct claas_generate *ask = r->ask;
    const struct modelfile *file = r->self->file;
    size_t ends = ignore_ends ? 0 : file->n_stop;
    r->stops = mem_array(ends + ask->n_stop_ids, sizeof *r->stops);
    if (!r->stops) {
        return err_oom(err, "a request");
    }
    if (ends) {
        memcpy(r->stops, file->stop_ids, ends * sizeof *r->stops);
    }
    if (ask->n_stop_ids) {
        memcpy(r->stops + ends, ask->stop_ids, ask->n_stop_ids * sizeof *r->stops);
    }
    r->n_stops = ends + ask->n_stop_ids;
    return score_check_ids(r->self->model, r->stops, r->n_stops, "stop_ids", err);
}

static int set_sampler(struct request *r, struct claas_error *err)
{
    const struct claas_generate *ask = r->ask;
    const struct sample_settings settings = {
        .temperature = (double)ask->temperature, .top_p = (double)ask->top_p, .min_p = (double)ask->min_p,
        .repetition = (double)ask->repetition, .presence = (double)ask->presence, .frequency = (double)ask->frequency,
        .top_k = ask->top_k, .seed = ask->seed,
    };
    return sampler_create(r->self->model->geometry.vocab, &settings, r->self->allowed, ask->prompt, ask->n_prompt,
                          &r->sampler, err);
}

static int check_prompt(const struct request *r, struct claas_error *err)
{
    const struct claas_generate *ask = r->ask;
    size_t context = r->self->model->geometry.context;
    if (!ask->prompt || ask->n_prompt == 0) {
        return err_set(err, CLAAS_ERR_INVALID, "prompt", ask->chat_json ? "this plugin takes token ids, not messages"
                                                                        : "the prompt is empty");
    }
    if (ask->n_prompt >= context) {
        return err_set(err, CLAAS_ERR_INVALID, "prompt",
                       "the prompt of %u tokens leaves no room for an answer in the context of %zu tokens", ask->n_prompt,
                       context);
    }
    if (ask->n_top > INSTANCE_TOP_MAX || ask->n_top > r->self->model->geometry.vocab) {
        return err_set(err, CLAAS_ERR_INVALID, "top_logprobs", "'top_logprobs' is %u: at most %d are told", ask->n_top,
                       INSTANCE_TOP_MAX);
    }
    return score_check_ids(r->self->model, ask->prompt, ask->n_prompt, "prompt", err);
}

static int request_check(struct request *r, struct claas_error *err)
{
    const struct claas_generate *ask = r->ask;
    int ignore_ends = 0;
    int rc = check_prompt(r, err);
    rc = rc ? rc : read_extra(r, &ignore_ends, err);
    rc = rc ? rc : set_stops(r, ignore_ends, err);
    rc = rc ? rc : answer_init(&r->answer, r->self->file->tokenizer, ask->stop, ask->n_stop, err);
    rc = rc ? rc : set_sampler(r, err);
    if (rc) {
        return rc;
    }
    r->most = r->self->model->geometry.context - ask->n_prompt;
    if (ask->max_tokens && ask->max_tokens < r->most) {
        r->most = ask->max_tokens;
    }
    r->top_ids = mem_array(ask->n_top, sizeof *r->top_ids);
    r->top_logprobs = mem_array(ask->n_top, sizeof *r->top_logprobs);
    return r->top_ids && r->top_logprobs ? 0 : err_oom(err, "a request");
}

/* ---- answering ---- */

static int send_prompt(const struct request *r)
{
    const struct claas_piece piece = { .size = sizeof piece, .flags = CLAAS_PIECE_PROMPT, .ids = r->ask->prompt,
                                       .n = r->ask->n_prompt };
    return r->stream->piece(r->stream->ctx, &piece);
}

/* One token with what may be shown of the text; with `finish` all that is left of it. */
static int send_token(struct request *r, int32_t id, float logprob, const char *finish, int ends)
{
    size_t bytes = finish ? r->answer.text.len : answer_ready(&r->answer);
    const struct claas_piece piece = {
        .size = sizeof piece, .flags = finish ? CLAAS_PIECE_LAST : 0, .ids = &id, .logprobs = &logprob,
        .top_ids = r->ask->n_top ? r->top_ids : NULL, .top_logprobs = r->ask->n_top ? r->top_logprobs : NULL,
        .text = buf_str(&r->answer.text), .finish = finish, .n = 1, .n_top = r->ask->n_top,
        .text_bytes = (uint32_t)bytes, .end_tokens = ends ? 1 : 0,
    };
    int stop = r->stream->piece(r->stream->ctx, &piece);
    answer_take(&r->answer, bytes);
    return stop;
}

static void send_cancelled(const struct request *r)
{
    const struct claas_piece piece = { .size = sizeof piece, .flags = CLAAS_PIECE_LAST, .text = "",
                                       .finish = "cancelled" };
    (void)r->stream->piece(r->stream->ctx, &piece); /* it wants no more; the end is told all the same */
}

/* Samples one token and takes it into the answer; *out_finish is set when it is the last one. */
static int next_token(struct request *r, struct decode *d, size_t n, int32_t *out_id, float *out_logprob,
                      const char **out_finish, int *out_ends, struct claas_error *err)
{
    int rc = sampler_next(r->sampler, decode_logits(d), r->stops, n < r->least ? r->n_stops : 0, out_id, err);
    if (rc) {
        return rc;
    }
    *out_logprob = decode_logprob(d, *out_id);
    if (r->ask->n_top) {
        rc = decode_top(d, r->ask->n_top, r->top_ids, r->top_logprobs, err);
    }
    *out_ends = is_stop(r, *out_id);
    rc = rc || *out_ends ? rc : answer_add(&r->answer, *out_id, err);
    if (*out_ends || r->answer.stopped) {
        *out_finish = "stop";
    } else if (n + 1 == r->most) {
        *out_finish = "length";
    }
    if (!rc && *out_finish) {
        rc = answer_end(&r->answer, err);
    }
    return rc;
}

/* Long answers look after those that wait: nobody else may be free to. */
static void tend(struct request *r)
{
    int64_t now = clock_mono_ns();
    if (now - r->tended_ns > 500000000) {
        r->tended_ns = now;
        queue_tend(r->self->queue);
    }
}

static int answer_tokens(struct request *r, struct decode *d, struct claas_error *err)
{
    const char *finish = NULL;
    int rc = decode_feed(d, r->ask->prompt, r->ask->n_prompt, r->job.call, err);
    for (size_t n = 0; !rc && !finish; n++) {
        int32_t id;
        float logprob;
        int ends = 0;
        rc = next_token(r, d, n, &id, &logprob, &finish, &ends, err);
        if (!rc && send_token(r, id, logprob, finish, ends)) {
            if (!finish) {
                send_cancelled(r);
            }
            return 0;
        }
        if (!rc && !finish) {
            rc = decode_feed(d, &id, 1, r->job.call, err);
        }
        tend(r);
    }
    return rc;
}

static int request_answer(struct request *r, struct claas_error *err)
{
    struct instance *self = r->self;
    const struct warm_adapter *adapter = NULL;
    struct decode *d = NULL;
    int rc = r->ask->version ? instance_adapter(self, r->ask->version, 0, r->job.call, &adapter, err) : 0;
    rc = rc ? rc : decode_open(self->model, adapter ? adapter->lora : NULL, &d, err);
    if (!rc) {
        if (send_prompt(r)) {
            send_cancelled(r);
        } else {
            rc = answer_tokens(r, d, err);
        }
    }
    decode_close(d);
    warm_release(self->warm, adapter);
    return rc;
}

static void request_run(struct queue_job *job)
{
    struct request *r = (struct request *)job;
    const struct claas_stream *stream = r->stream;
    struct claas_error err = ERR_INIT;
    int rc = request_answer(r, &err);
    request_free(r);
    stream->done(stream->ctx, rc ? &err : NULL);
}

static void request_give_up(struct queue_job *job)
{
    struct request *r = (struct request *)job;
    const struct claas_stream *stream = r->stream;
    struct claas_error err = ERR_INIT;
    (void)err_set(&err, CLAAS_ERR_CANCELLED, NULL, "the request was cancelled before it was answered");
    request_free(r);
    stream->done(stream->ctx, &err);
}

static int infer_generate(void *ctx, const struct claas_generate *ask, const struct claas_stream *stream,
                          const struct claas_call *call, struct claas_error *err)
{
    struct instance *self = ctx;
    struct request *r = calloc(1, sizeof *r);
    if (!r) {
        return err_oom(err, "a request");
    }
    r->job = (struct queue_job){ .scope = ask->scope, .call = call, .run = request_run, .give_up = request_give_up };
    r->self = self;
    r->ask = ask;
    r->stream = stream;
    int rc = request_check(r, err);
    rc = rc ? rc : queue_add(self->queue, &r->job, err);
    if (rc) {
        request_free(r);
    }
    return rc;
}

/* ---- score ---- */

/* What only this table limits; the rest is refused by decode_score. */
static int check_score(const struct claas_score *s, struct claas_error *err)
{
    if (!s->tokens) {
        return err_set(err, CLAAS_ERR_INVALID, "prompt", "the prompt is empty");
    }
    if (s->n_top > INSTANCE_TOP_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "top_logprobs", "'top_logprobs' is %u: at most %d are told", s->n_top,
                       INSTANCE_TOP_MAX);
    }
    return 0;
}

static int infer_score(void *ctx, const struct claas_score *s, const struct claas_call *call, struct claas_error *err)
{
    struct instance *self = ctx;
    const struct warm_adapter *adapter = NULL;
    int rc = check_score(s, err);
    if (!rc && s->version) {
        rc = instance_adapter(self, s->version, 0, call, &adapter, err);
    }
    rc = rc ? rc : queue_enter(self->queue, call, err);
    if (!rc) {
        const struct decode_score job = {
            .prompt = s->tokens, .n_prompt = s->n_prompt, .response = s->tokens + s->n_prompt,
            .n_response = s->n_response, .n_top = s->n_top, .logprobs = s->out_logprobs, .top_ids = s->out_top_ids,
            .top_logprobs = s->out_top_logprobs,
        };
        rc = decode_score(self->model, adapter ? adapter->lora : NULL, &job, call, err);
        queue_leave(self->queue);
    }
    warm_release(self->warm, adapter);
    return rc;
}

/* ---- versions, pauses ---- */

static int infer_load(void *ctx, const struct claas_version *version, const struct claas_call *call,
                      struct claas_error *err)
{
    struct instance *self = ctx;
    const struct warm_adapter *adapter = NULL;
    int rc = instance_adapter(self, version, 0, call, &adapter, err);
    warm_release(self->warm, adapter);
    return rc;
}

static int infer_unload(void *ctx, const struct claas_digest *serve, const struct claas_call *call,
                        struct claas_error *err)
{
    struct instance *self = ctx;
    (void)call;
    (void)err;
    warm_unload(self->warm, serve);
    return 0;
}

static int infer_pause(void *ctx, const struct claas_call *call, struct claas_error *err)
{
    struct instance *self = ctx;
    return queue_pause(self->queue, call, err);
}

static int infer_resume(void *ctx, const struct claas_call *call, struct claas_error *err)
{
    struct instance *self = ctx;
    (void)call;
    (void)err;
    queue_resume(self->queue);
    return 0;
}

const struct claas_inference instance_inference = {
    .size = sizeof(struct claas_inference),
    .info = infer_info,
    .generate = infer_generate,
    .score = infer_score,
    .load = infer_load,
    .unload = infer_unload,
    .pause = infer_pause,
    .resume = infer_resume,
};
