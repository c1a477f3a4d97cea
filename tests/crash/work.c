/* SPDX-License-Identifier: MIT */
/* The clients: each does a few things in turn, as drawn, and writes down what it was told. It ends early when its daemon
 * does. */
#include "config.h"

#include "crash.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENTS = 3 };

struct client {
    struct host *host;
    struct asker *asker;
    pthread_t thread;
    uint64_t stream, drawn;
    atomic_int *n_done;
};

struct workers {
    struct client clients[CLIENTS];
    int n;
    atomic_int n_done;
};

static uint64_t draw(struct client *c, uint64_t n)
{
    return rng_bits(c->host->world->seed, c->stream, c->drawn++) % n;
}

void work_adapter_id(int adapter, char out[16])
{
    (void)snprintf(out, 16, "t/a%d", adapter);
}

/* 1: the daemon is gone. A refusal that is none of these is a finding. */
static int gone(struct client *c, const char *what, long status, cJSON *o)
{
    if (status == 0) {
        return 1;
    }
    if (status != 200 && status != 202) {
        char *text = o ? json_print(o) : NULL;
        trial_fail(c->host->world, "%s: status %ld, %s", what, status, text ? text : "no body");
    }
    return 0;
}

static void made_add(struct client *c, int adapter, uint64_t version, const char *kind)
{
    struct ledger *l = &c->host->ledger;
    (void)pthread_mutex_lock(&l->mutex);
    if (l->n_made < ANSWERS_MAX) {
        l->made[l->n_made++] = (struct made){ adapter, version, kind };
    }
    (void)pthread_mutex_unlock(&l->mutex);
}

static int create(struct client *c, int adapter)
{
    char id[16];
    char body[160];
    cJSON *o = NULL;
    work_adapter_id(adapter, id);
    (void)snprintf(body, sizeof body, "{\"lora_id\": \"%s\", \"base_model\": \"tiny\", \"lora_r\": 2,"
                                      " \"lora_alpha\": 4, \"target_modules\": [\"q_proj\", \"v_proj\"]}", id);
    long status = asker_ask(c->asker, "POST", "/v1/lora/init", NULL, body, &o);
    int rc = gone(c, "create", status, o);
    if (!rc) {
        made_add(c, adapter, answer_number(c->host->world, o, "version"), "create");
        atomic_store(&c->host->ledger.exists[adapter], 1);
    }
    cJSON_Delete(o);
    return rc;
}

static int rollback(struct client *c, int adapter)
{
    char id[16];
    char body[80];
    cJSON *o = NULL;
    work_adapter_id(adapter, id);
    (void)snprintf(body, sizeof body, "{\"id\": \"%s\", \"version\": 1}", id);
    long status = asker_ask(c->asker, "POST", "/v1/adapters/rollback", NULL, body, &o);
    if (status == 404) { /* version 1 is among those whose contents may be pruned */
        cJSON_Delete(o);
        return 0;
    }
    int rc = gone(c, "rollback", status, o);
    if (!rc) {
        made_add(c, adapter, answer_number(c->host->world, o, "version"), "restore");
    }
    cJSON_Delete(o);
    return rc;
}

/* The id of the answer, or "" when the daemon is gone. */
static void chat(struct client *c, int adapter, char out_id[80])
{
    char id[16];
    char body[300];
    cJSON *o = NULL;
    struct ledger *l = &c->host->ledger;
    out_id[0] = '\0';
    work_adapter_id(adapter, id);
    (void)snprintf(body, sizeof body, "{\"model\": \"%s\", \"messages\": [{\"role\": \"system\", \"content\": \"s\"},"
                                      " {\"role\": \"user\", \"content\": \"q%u\"}], \"temperature\": 1, \"seed\": %u,"
                                      " \"max_tokens\": 4}", id, (unsigned)draw(c, 10000), (unsigned)draw(c, 100000));
    long status = asker_ask(c->asker, "POST", "/v1/chat/completions", NULL, body, &o);
    if (!gone(c, "chat", status, o)) {
        const cJSON *message = json_get(cJSON_GetArrayItem(json_get(o, "choices"), 0), "message");
        (void)snprintf(out_id, 80, "%s", answer_text(c->host->world, o, "id"));
        (void)pthread_mutex_lock(&l->mutex);
        if (l->n_answers < ANSWERS_MAX) {
            struct answer *a = &l->answers[l->n_answers++];
            memcpy(a->id, out_id, sizeof a->id);
            a->text = strdup(answer_text(c->host->world, message, "content"));
        }
        (void)pthread_mutex_unlock(&l->mutex);
    }
    cJSON_Delete(o);
}

/* Notes the answer to r. A job once told is the same for ever. */
static void acknowledged(struct client *c, struct request *r, long status, const cJSON *o)
{
    struct world *w = c->host->world;
    const char *job = answer_text(w, o, status == 202 ? "id" : "request_id");
    uint64_t version = status == 200 ? answer_number(w, o, "version") : 0;
    (void)pthread_mutex_lock(&c->host->ledger.mutex);
    if (r->sure && strcmp(r->job, job) != 0) {
        trial_fail(w, "a repeat under the key '%s' gave job '%s' instead of '%s'", r->key, job, r->job);
    }
    if (version && r->version && version != r->version) {
        trial_fail(w, "a repeat under the key '%s' gave version %llu instead of %llu", r->key,
                   (unsigned long long)version, (unsigned long long)r->version);
    }
    (void)snprintf(r->job, sizeof r->job, "%s", job);
    r->version = version ? version : r->version;
    r->sure = 1;
    (void)pthread_mutex_unlock(&c->host->ledger.mutex);
}

static int send_request(struct client *c, struct request *r)
{
    char key[64];
    const char *more[3] = { NULL };
    cJSON *o = NULL;
    int n = 0;
    if (draw(c, 2)) {
        more[n++] = "Prefer: respond-async";
    }
    if (r->key[0]) {
        (void)snprintf(key, sizeof key, "Idempotency-Key: %s", r->key);
        more[n++] = key;
    }
    long status = asker_ask(c->asker, "POST", "/v1/feedback", more, r->body, &o);
    int rc = gone(c, "feedback", status, o);
    if (!rc) {
        acknowledged(c, r, status, o);
    }
    cJSON_Delete(o);
    return rc;
}

static int feedback(struct client *c, int adapter)
{
    struct ledger *l = &c->host->ledger;
    struct buf body = BUF_INIT;
    char answer[80];
    char id[16];
    chat(c, adapter, answer);
    if (!answer[0]) {
        return 1;
    }
    work_adapter_id(adapter, id);
    buf_addf(&body, "{\"requests\": [{\"lora_id\": \"%s\", \"completion_id\": \"%s\", \"feedback\": \"be %u\"}]}", id, answer,
             (unsigned)draw(c, 1000));
    (void)pthread_mutex_lock(&l->mutex);
    if (l->n_requests == ANSWERS_MAX) {
        trial_fail(c->host->world, "the ledger is full");
    }
    struct request *r = &l->requests[l->n_requests++];
    r->body = buf_take(&body);
    r->adapter = adapter;
    if (draw(c, 2)) {
        (void)snprintf(r->key, sizeof r->key, "k%llu-%llu", (unsigned long long)c->stream, (unsigned long long)c->drawn);
    }
    (void)pthread_mutex_unlock(&l->mutex);
    int rc = send_request(c, r);
    return rc == 0 && r->key[0] && draw(c, 3) == 0 ? send_request(c, r) : rc;
}

static int act(struct client *c)
{
    char ignored[80];
    int adapter = (int)draw(c, ADAPTERS);
    if (!atomic_load(&c->host->ledger.exists[adapter])) {
        return create(c, adapter);
    }
    uint64_t what = draw(c, 10);
    if (what < 1) {
        return rollback(c, adapter);
    }
    if (what < 3) {
        chat(c, adapter, ignored);
        return !ignored[0];
    }
    return feedback(c, adapter);
}

static void *client_main(void *ctx)
{
    struct client *c = ctx;
    int acts = 2 + (int)draw(c, 4);
    while (acts-- > 0 && !act(c)) {
    }
    (void)atomic_fetch_add(c->n_done, 1);
    return NULL;
}

struct workers *work_begin(struct host *h)
{
    struct workers *k = calloc(1, sizeof *k);
    if (!k) {
        trial_fail(h->world, "no memory for clients");
    }
    k->n = 1 + (int)trial_draw(h->world, CLIENTS);
    for (int i = 0; i < k->n; i++) {
        struct client *c = &k->clients[i];
        *c = (struct client){ .host = h, .asker = asker_new(h), .n_done = &k->n_done };
        c->stream = 1 + ((uint64_t)h->world->round * HOSTS + (uint64_t)h->number) * CLIENTS + (uint64_t)i;
        if (pthread_create(&c->thread, NULL, client_main, c)) {
            trial_fail(h->world, "cannot start a thread");
        }
    }
    return k;
}

int work_done(const struct workers *k)
{
    return atomic_load(&k->n_done) == k->n;
}

void work_end(struct workers *k)
{
    for (int i = 0; i < k->n; i++) {
        (void)pthread_join(k->clients[i].thread, NULL);
        asker_free(k->clients[i].asker);
    }
    free(k);
}
