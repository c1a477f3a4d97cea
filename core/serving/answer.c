/* SPDX-License-Identifier: MIT */
/* One answer: what is asked goes to the plugin, the pieces come back, are shown as they come, and are recorded before
 * the answer is acknowledged. */
#include "config.h"

#include "serving/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "text/visible.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What comes back. Pieces come one after the other, from any thread; `lock` guards `over`, and with it orders what the
 * pieces have written before what the waiting thread reads. */
struct collect {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    int over;                        /* done() came */
    int rc;                          /* why it was not a good answer */
    struct claas_error err;

    const struct serving_stream *user;
    const struct spelling *spelling; /* if the user wants tokens; null: not known */
    size_t told, told_bytes;         /* tokens that went with pieces, and what they spell */
    struct serving_receipt *receipt;
    int begun, stopped, chat;
    int cut;                         /* ended by its deadline, or called off: `err` says so */
    struct visible_stream visible;
    struct buf text;
    struct host_ids prompt;
    int32_t *ids, *top_ids;
    float *logprobs, *top_logprobs;
    size_t n, cap_ids, cap_logprobs, cap_top_ids, cap_top_logprobs;
    uint32_t n_top, end_tokens;
    int without_logprobs, without_top;
    char finish[24];
};

static int floats_add(float **array, size_t *cap, size_t at, const float *more, size_t n)
{
    if (mem_grow((void **)array, cap, at + n, sizeof **array) != 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        (*array)[at + i] = more[i] > 0 ? 0 : more[i]; /* rounding may leave the logarithm of 1 just above 0 */
    }
    return 0;
}

static int ids_add(int32_t **array, size_t *cap, size_t at, const int32_t *more, size_t n)
{
    if (mem_grow((void **)array, cap, at + n, sizeof **array) != 0) {
        return -1;
    }
    memcpy(*array + at, more, n * sizeof *more);
    return 0;
}

static int take_prompt(struct collect *c, const struct claas_piece *p)
{
    if (p->n == 0 || p->ids == NULL) {
        return 0; /* it is what we sent */
    }
    c->prompt.n = 0;
    if (ids_add(&c->prompt.ids, &c->prompt.cap, 0, p->ids, p->n) != 0) {
        return err_oom(&c->err, "an answer");
    }
    c->prompt.n = p->n;
    return 0;
}

static int take_tokens(struct collect *c, const struct claas_piece *p)
{
    if (p->ids == NULL && p->n > 0) {
        return err_set(&c->err, CLAAS_ERR_INTERNAL, NULL, "the inference plugin gave text without token ids");
    }
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->ids[i] < 0) {
            return err_set(&c->err, CLAAS_ERR_INTERNAL, NULL, "the inference plugin gave the token id %d",
                           (int)p->ids[i]);
        }
    }
    c->without_logprobs |= p->n > 0 && p->logprobs == NULL;
    c->without_top |= p->n > 0 && (p->n_top < c->n_top || p->top_ids == NULL || p->top_logprobs == NULL);
    int bad = p->n > 0 && ids_add(&c->ids, &c->cap_ids, c->n, p->ids, p->n) != 0;
    if (!bad && p->n > 0 && !c->without_logprobs) {
        bad = floats_add(&c->logprobs, &c->cap_logprobs, c->n, p->logprobs, p->n) != 0;
    }
    for (uint32_t i = 0; !bad && c->n_top > 0 && !c->without_top && i < p->n; i++) {
        size_t at = (c->n + i) * c->n_top;
        bad = ids_add(&c->top_ids, &c->cap_top_ids, at, p->top_ids + (size_t)i * p->n_top, c->n_top) != 0 ||
              floats_add(&c->top_logprobs, &c->cap_top_logprobs, at, p->top_logprobs + (size_t)i * p->n_top,
                         c->n_top) != 0;
    }
    c->n += bad ? 0 : p->n;
    buf_add(&c->text, p->text, p->text_bytes);
    c->end_tokens = p->n > 0 || p->end_tokens > 0 ? p->end_tokens : c->end_tokens;
    return bad || c->text.failed ? err_oom(&c->err, "an answer") : 0;
}

static void tokens_at(const struct collect *c, size_t from, struct serving_piece *out)
{
    out->ids = c->ids + from;
    out->logprobs = c->without_logprobs ? NULL : c->logprobs + from;
    if (c->n_top > 0 && !c->without_top) {
        out->top_ids = c->top_ids + from * c->n_top;
        out->top_logprobs = c->top_logprobs + from * c->n_top;
        out->n_top = c->n_top;
    }
}

/* Takes as many tokens, behind those told already, as spell no more than the first `shown` bytes of the raw text: so
 * tokens go with the piece that holds the end of their text. */
static void tokens_tell(struct collect *c, size_t shown, struct serving_piece *out)
{
    size_t end = c->n - (c->end_tokens < c->n ? c->end_tokens : c->n);
    size_t from = c->told;
    while (c->spelling != NULL && c->told < end) {
        size_t bytes = spelling_bytes(c->spelling, c->ids[c->told]);
        if (c->told_bytes + bytes > shown) {
            break;
        }
        c->told_bytes += bytes;
        c->told++;
    }
    out->n = (uint32_t)(c->told - from);
    if (out->n > 0) {
        tokens_at(c, from, out);
    }
}

/* What is left at the end: tokens whose text a stop string has cut, or all if nobody knows what they spell. */
static void tokens_tell_rest(struct collect *c)
{
    size_t end = c->n - (c->end_tokens < c->n ? c->end_tokens : c->n);
    struct serving_piece rest = { .text = "", .n = c->told < end ? (uint32_t)(end - c->told) : 0 };
    if (c->user != NULL && c->user->piece != NULL && c->user->tokens && rest.n > 0 && !c->stopped && !c->cut) {
        tokens_at(c, c->told, &rest);
        (void)c->user->piece(c->user->ctx, &rest); /* who is gone by now has had the whole answer */
    }
}

static int show(struct collect *c, const struct claas_piece *p, int last)
{
    struct buf out = BUF_INIT;
    struct serving_piece shown = { .text = "" };
    if (c->user == NULL || c->user->piece == NULL) {
        return 0;
    }
    const char *text = p == NULL ? NULL : p->text;
    size_t n = p == NULL ? 0 : p->text_bytes;
    size_t settled = c->text.len;
    int rc = 0;
    if (c->chat) {
        rc = visible_stream_add(&c->visible, text, n, last, &out, &c->err);
        text = buf_str(&out);
        n = out.len;
        settled = c->visible.settled;
    }
    if (rc == 0 && c->user->tokens) {
        tokens_tell(c, settled, &shown);
    }
    if (rc == 0 && (n > 0 || shown.n > 0 || (p != NULL && p->n > 0))) {
        shown.text = text == NULL ? "" : text;
        shown.text_bytes = n;
        c->stopped = c->user->piece(c->user->ctx, &shown) != 0;
    }
    buf_clear(&out);
    return rc;
}

static void begin(struct collect *c)
{
    if (!c->begun) {
        c->begun = 1;
        c->receipt->n_prompt = (uint32_t)c->prompt.n;
        if (c->user != NULL && c->user->begin != NULL) {
            c->stopped = c->user->begin(c->user->ctx, c->receipt) != 0;
        }
    }
}

static int on_piece(void *ctx, const struct claas_piece *p)
{
    struct collect *c = ctx;
    if (c->rc != 0 || c->stopped) {
        return 1;
    }
    if (p->flags & CLAAS_PIECE_PROMPT) {
        c->rc = take_prompt(c, p);
    }
    if (c->rc == 0) {
        begin(c);
    }
    if (c->rc == 0 && !c->stopped && !(p->flags & CLAAS_PIECE_PROMPT)) {
        c->rc = take_tokens(c, p);
        if (c->rc == 0) {
            c->rc = show(c, p, 0);
        }
    }
    if (c->rc == 0 && (p->flags & CLAAS_PIECE_LAST)) {
        (void)snprintf(c->finish, sizeof c->finish, "%s",
                       p->finish == NULL || p->finish[0] == '\0' ? "stop" : p->finish);
        if (!c->stopped) {
            c->rc = show(c, NULL, 1);
        }
    }
    return c->rc != 0 || c->stopped;
}

static void on_done(void *ctx, const struct claas_error *or_null)
{
    struct collect *c = ctx;
    (void)pthread_mutex_lock(&c->lock);
    int called_off = or_null != NULL &&
                     (or_null->code == CLAAS_ERR_CANCELLED || or_null->code == CLAAS_ERR_TIMEOUT);
    if (c->rc == 0 && called_off && !c->stopped && c->n > 0) {
        c->err = *or_null; /* what was said until then is recorded, and the client is told why there is no more */
        c->cut = 1;
    } else if (or_null != NULL && c->rc == 0 && !(called_off && c->stopped)) {
        c->err = *or_null; /* if we asked it to stop, how it says so is its own matter */
        c->rc = or_null->code;
    }
    c->over = 1;
    (void)pthread_cond_signal(&c->ended);
    (void)pthread_mutex_unlock(&c->lock);
}

static void collect_clear(struct collect *c)
{
    (void)pthread_cond_destroy(&c->ended);
    (void)pthread_mutex_destroy(&c->lock);
    visible_stream_clear(&c->visible);
    buf_clear(&c->text);
    host_ids_clear(&c->prompt);
    free(c->ids);
    free(c->logprobs);
    free(c->top_ids);
    free(c->top_logprobs);
}

/* ---- one generate ---------------------------------------------------------------------------- */

struct asking {                      /* one request on its way */
    const struct serving_request *r;
    cJSON *chat;                     /* null: text completion */
    struct lease lease;
    struct collect c;
    uint32_t max_tokens;
    uint64_t seed;
    struct serving_answer answer;
};

/* Caches are not shared between owners, and owners take turns; where nobody has a name, adapters do. */
static int scope_of(const char *owner, const char *adapter, uint64_t *out, struct claas_error *err)
{
    struct claas_digest d = { .b = { 0 } };
    const char *name = owner != NULL && owner[0] != '\0' ? owner : adapter;
    int rc = name[0] != '\0' ? sha256_of(name, strlen(name), &d, err) : 0;
    if (rc == 0) {
        memcpy(out, d.b, sizeof *out);
    }
    return rc;
}

static int generate(struct serving *s, struct asking *a, struct claas_error *err)
{
    const struct serving_params *p = &a->r->params;
    struct collect *c = &a->c;
    uint64_t scope = 0;
    int rc = scope_of(a->r->owner, a->lease.adapter, &scope, err);
    if (rc != 0) {
        return rc;
    }
    struct host_ids sent = { 0 }; /* the collected prompt may be replaced while the plugin still reads this one */
    if (ids_add(&sent.ids, &sent.cap, 0, c->prompt.ids, c->prompt.n) != 0) {
        return err_oom(err, "a request");
    }
    const struct claas_generate g = {
        .size = sizeof g, .n_prompt = (uint32_t)c->prompt.n, .version = lease_abi(&a->lease), .prompt = sent.ids,
        .stop = p->stop, .stop_ids = p->stop_ids, .n_stop = p->n_stop, .n_stop_ids = p->n_stop_ids,
        .max_tokens = a->max_tokens, .n_top = p->n_top, .temperature = (float)p->temperature,
        .top_p = (float)p->top_p, .min_p = (float)p->min_p, .repetition = (float)p->repetition,
        .presence = (float)p->presence, .frequency = (float)p->frequency,
        .top_k = p->top_k < 0 ? 0 : (int32_t)p->top_k, .seed = a->seed,
        .scope = scope,
    };
    const struct claas_stream stream = { .size = sizeof stream, .ctx = c, .piece = on_piece, .done = on_done };
    rc = host_inference_generate(s->inference, &g, &stream, a->r->call, err);
    if (rc == 0) {
        (void)pthread_mutex_lock(&c->lock);
        while (!c->over) {
            (void)pthread_cond_wait(&c->ended, &c->lock);
        }
        (void)pthread_mutex_unlock(&c->lock);
        if (c->rc != 0) {
            rc = c->rc;
            if (err != NULL) {
                *err = c->err;
            }
        }
    }
    free(sent.ids);
    return rc;
}

/* ---- the record ------------------------------------------------------------------------------ */

static int visible_make(struct asking *a, struct claas_error *err)
{
    struct buf channel = BUF_INIT;
    struct buf visible = BUF_INIT;
    struct buf *text = &a->c.text;
    buf_cut(text, text->len - utf8_incomplete(buf_str(text), text->len));
    const char *raw = buf_str(text);
    int rc = 0;
    if (!utf8_valid(raw, text->len)) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "the inference plugin gave text that is not UTF-8");
    } else if (a->chat == NULL) {
        buf_adds(&visible, raw);
    } else {
        rc = visible_final_channel(raw, strlen(raw), &channel, err);
        if (rc == 0) {
            rc = visible_strip_thinking(buf_str(&channel), channel.len, &visible, err);
        }
    }
    buf_clear(&channel);
    if (rc == 0) {
        a->answer.visible = buf_take(&visible);
        a->answer.text = mem_dup(raw, strlen(raw));
        if (a->answer.visible == NULL || a->answer.text == NULL) {
            rc = err_oom(err, "an answer");
        }
    }
    buf_clear(&visible);
    return rc;
}

/* For people and for replay by hand; the ids are what counts, so a prompt that cannot be spelled is no failure. */
static char *prompt_text(struct serving *s, const struct asking *a)
{
    struct buf text = BUF_INIT;
    if (a->chat == NULL) {
        return mem_dup(a->r->prompt, a->r->prompt_bytes);
    }
    if (host_text_decode(s->text, a->c.prompt.ids, a->c.prompt.n, CLAAS_SPECIAL, &text, NULL) != 0) {
        buf_clear(&text);
        return NULL;
    }
    return buf_take(&text);
}

static int record(struct serving *s, const struct asking *a, struct claas_error *err)
{
    const struct serving_answer *out = &a->answer;
    struct state_rollout r = {
        .id = out->receipt.id, .kind = a->chat != NULL ? "chat" : "completion",
        .owner = a->r->owner == NULL ? "" : a->r->owner, .user = a->r->user, .model = a->r->model == NULL ? "" : a->r->model,
        .adapter = out->receipt.adapter, .version = out->receipt.version, .serve = out->receipt.serve,
        .time_ns = out->receipt.created_ns, .text = out->text, .visible = out->visible, .finish = out->finish,
        .prompt_ids = a->c.prompt.ids, .n_prompt = (uint32_t)a->c.prompt.n, .response_ids = out->response_ids,
        .n_response = out->n_response, .logprobs = out->logprobs, .end_tokens = out->end_tokens,
    };
    int rc = visible_hash(out->visible, strlen(out->visible), &r.hash, err);
    if (rc != 0) {
        return rc;
    }
    char *messages = a->chat == NULL ? NULL : json_print(json_get(a->chat, "messages"));
    char *sampler = params_json(&a->r->params, a->max_tokens, a->seed);
    char *prompt = prompt_text(s, a);
    if (sampler == NULL || (a->chat != NULL && messages == NULL)) {
        rc = err_oom(err, "the record of an answer");
    } else {
        r.messages_json = messages;
        r.sampler_json = sampler;
        r.prompt = prompt;
        rc = state_rollout_add(s->state, &r, err);
    }
    free(messages);
    free(sampler);
    free(prompt);
    return rc;
}

/* The collected arrays become the answer's. */
static void hand_over(struct asking *a)
{
    struct serving_answer *out = &a->answer;
    struct collect *c = &a->c;
    out->n_response = (uint32_t)c->n;
    out->end_tokens = c->end_tokens;
    out->response_ids = c->ids;
    out->logprobs = c->without_logprobs ? NULL : c->logprobs;
    if (c->without_logprobs) {
        free(c->logprobs);
    }
    if (c->n_top > 0 && !c->without_top) {
        out->n_top = c->n_top;
        out->top_ids = c->top_ids;
        out->top_logprobs = c->top_logprobs;
    } else {
        free(c->top_ids);
        free(c->top_logprobs);
    }
    c->ids = NULL;
    c->top_ids = NULL;
    c->logprobs = NULL;
    c->top_logprobs = NULL;
}

static int finish(struct serving *s, struct asking *a, struct serving_answer *out, struct claas_error *err)
{
    struct collect *c = &a->c;
    (void)snprintf(a->answer.finish, sizeof a->answer.finish, "%s",
                   c->stopped || c->cut ? "cancelled" : c->finish[0] != '\0' ? c->finish : "stop");
    a->answer.receipt.n_prompt = (uint32_t)c->prompt.n;
    int rc = visible_make(a, err);
    if (rc != 0) {
        return rc;
    }
    struct claas_error lost = ERR_INIT;
    hand_over(a);
    atomic_fetch_add(&s->n_tokens, c->n);
    if (s->state != NULL && (c->n > 0 || !c->stopped)) {
        rc = record(s, a, &lost);
    }
    if (rc != 0) {
        log_line(LOG_ERROR, "serving", "answer '%s' is not recorded: %s", a->answer.receipt.id, lost.message);
        if (err != NULL) {
            *err = lost;
            (void)err_prefix(err, "the answer cannot be recorded");
        }
        return rc;
    }
    if (c->stopped) {
        return err_set(err, CLAAS_ERR_CANCELLED, NULL, "the client went away");
    }
    if (c->cut) {
        if (err != NULL) {
            *err = c->err;
        }
        return c->err.code;
    }
    atomic_fetch_add(&s->n_answers, 1);
    *out = a->answer;
    a->answer = (struct serving_answer){ .text = NULL };
    return 0;
}

static int receipt_make(struct serving *s, struct asking *a, struct claas_error *err)
{
    struct serving_receipt *r = &a->answer.receipt;
    const char *prefix = a->chat != NULL ? "chatcmpl-" : "cmpl-";
    char digits[25];
    r->created_ns = clock_real_ns();
    r->version = a->lease.n;
    r->serve = a->lease.serve;
    r->n_prompt = (uint32_t)a->c.prompt.n;
    memcpy(r->adapter, a->lease.adapter, sizeof r->adapter);
    if (s->state != NULL) {
        return state_completion_id(s->state, prefix, r->id, err);
    }
    if (rng_hex(digits, 24) != 0) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot make a completion id: no random numbers");
    }
    (void)snprintf(r->id, sizeof r->id, "%s%s", prefix, digits);
    return 0;
}

static int seed_make(struct asking *a, struct claas_error *err)
{
    a->seed = a->r->params.seed;
    if (!a->r->params.has_seed) {
        if (rng_secret(&a->seed, sizeof a->seed) != 0) {
            return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot make a seed: no random numbers");
        }
        a->seed >>= 11; /* exact in any JSON reader */
    }
    return 0;
}

/* The prompt is in a->c.prompt: everything after that is the same for chats and completions. */
static int answer(struct serving *s, struct asking *a, struct serving_answer *out, struct claas_error *err)
{
    int rc = room_for(s, a->c.prompt.n, a->r->params.max_tokens, a->chat != NULL ? "messages" : "prompt",
                      &a->max_tokens, err);
    if (rc == 0) {
        rc = seed_make(a, err);
    }
    if (rc == 0) {
        rc = lease_take(s, a->r->model, a->r->prefix, a->r->call, &a->lease, err);
    }
    if (rc == 0) {
        rc = receipt_make(s, a, err);
    }
    if (rc == 0) {
        a->c.spelling = a->r->stream != NULL && a->r->stream->tokens ? spelling_of(s) : NULL;
        rc = generate(s, a, err);
    }
    if (rc == 0) {
        tokens_tell_rest(&a->c);
    }
    lease_release(s, &a->lease);
    return rc == 0 ? finish(s, a, out, err) : rc;
}

static int asking_init(struct asking *a, const struct serving_request *r, struct claas_error *err)
{
    *a = (struct asking){ .r = r };
    a->c.user = r->stream;
    a->c.receipt = &a->answer.receipt;
    a->c.n_top = r->params.n_top;
    a->c.err = ERR_INIT;
    if (pthread_mutex_init(&a->c.lock, NULL) != 0 || pthread_cond_init(&a->c.ended, NULL) != 0) {
        return err_oom(err, "a request");
    }
    return 0;
}

static void asking_clear(struct asking *a)
{
    collect_clear(&a->c);
    serving_answer_clear(&a->answer);
    cJSON_Delete(a->chat);
}

static int prepare(struct serving *s, const struct serving_request *r, const char *top, struct claas_error *err)
{
    int rc = serving_ready(s, err);
    return rc == 0 ? params_check(s, &r->params, top, err) : rc;
}

int serving_chat(struct serving *s, const struct serving_request *r, struct serving_answer *out,
                 struct claas_error *err)
{
    struct asking a;
    int rc = prepare(s, r, "top_logprobs", err);
    if (rc != 0) {
        return rc;
    }
    rc = asking_init(&a, r, err);
    if (rc != 0) {
        return rc;
    }
    atomic_fetch_add(&s->n_requests, 1);
    a.c.chat = 1;
    rc = messages_normalise(r->messages, &a.chat, err);
    if (rc == 0) {
        rc = messages_render(s, a.chat, &a.c.prompt, err);
    }
    if (rc == 0) {
        rc = answer(s, &a, out, err);
    }
    asking_clear(&a);
    atomic_fetch_sub(&s->n_requests, 1);
    return rc;
}

int serving_complete(struct serving *s, const struct serving_request *r, struct serving_answer *out,
                     struct claas_error *err)
{
    struct asking a;
    int rc = prepare(s, r, "logprobs", err);
    if (rc != 0) {
        return rc;
    }
    if (r->prompt == NULL || r->prompt_bytes == 0) {
        return err_set(err, CLAAS_ERR_INVALID, "prompt", "the prompt is empty");
    }
    rc = asking_init(&a, r, err);
    if (rc != 0) {
        return rc;
    }
    atomic_fetch_add(&s->n_requests, 1);
    /* Control tokens that are spelled in the prompt count as such: a client may bring its own template. */
    rc = host_text_encode(s->text, r->prompt, r->prompt_bytes, CLAAS_SPECIAL, &a.c.prompt, err);
    if (rc == 0 && a.c.prompt.n == 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, "prompt", "the prompt is empty");
    }
    if (rc == 0) {
        rc = answer(s, &a, out, err);
    }
    asking_clear(&a);
    atomic_fetch_sub(&s->n_requests, 1);
    return rc;
}

void serving_answer_clear(struct serving_answer *a)
{
    free(a->text);
    free(a->visible);
    free(a->response_ids);
    free(a->logprobs);
    free(a->top_ids);
    free(a->top_logprobs);
    *a = (struct serving_answer){ .text = NULL };
}
