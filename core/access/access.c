/* SPDX-License-Identifier: MIT */
/* Checking tokens against the keys in memory, which follow the database, and writing what keys have used. */
#include "config.h"

#include "access/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sha256.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How old our picture of the keys may be: so long a revoked key still works. Looking is one read of shared memory. */
#define LOOK_NS INT64_C(200000000)
/* A key that is not known is looked for at once, since it may have been made this moment, but not as often as somebody
 * can send wrong ones. */
#define LOOK_MISS_NS INT64_C(20000000)
#define WRITE_NS INT64_C(1000000000)

struct access {
    enum access_mode mode;
    struct state *state;  /* the daemon's; takes writes */
    struct state *reader; /* our connection: its version tells of others' writes */
    pthread_t writer;
    int writer_runs;
    pthread_cond_t wake;
    pthread_mutex_t lock; /* guards all below; taken before state's own */
    int stopping;
    struct slot *at;      /* by id */
    size_t n;
    int64_t version, looked_ns;
    int warned;
};

/* ---- the keys in memory ------------------------------------------------------------------------------------------------- */

static struct slot *slot_find(const struct access *a, const char *id)
{
    size_t low = 0;
    size_t high = a->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(id, a->at[mid].key.id);
        if (order == 0) {
            return &a->at[mid];
        }
        if (order < 0) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return NULL;
}

/* Under the lock. Counters of keys we know already go on: the database lags behind them. */
static int access_reload(struct access *a, struct claas_error *err)
{
    struct state_keys list = { 0 };
    int rc = state_key_list(a->reader, &list, err);
    if (rc) {
        return rc;
    }
    struct slot *fresh = mem_array(list.n, sizeof *fresh);
    if (!fresh) {
        state_keys_clear(&list);
        return err_oom(err, "the keys");
    }
    for (size_t i = 0; i < list.n; i++) {
        const struct slot *old = slot_find(a, list.at[i].id);
        fresh[i] = old ? *old : (struct slot){ 0 };
        struct state_key_use use = old ? old->key.use : list.at[i].use;
        fresh[i].key = list.at[i];
        fresh[i].key.use = use;
    }
    free(a->at);
    a->at = fresh;
    a->n = list.n;
    state_keys_clear(&list);
    return 0;
}

/* Under the lock: reads the keys again if somebody wrote. When that fails the old picture stays, but not in silence. */
static void access_look(struct access *a, int64_t oldest_ns)
{
    struct claas_error err = ERR_INIT;
    int64_t now = clock_mono_ns();
    int64_t version = 0;
    if (now - a->looked_ns < oldest_ns) {
        return;
    }
    int rc = state_version(a->reader, &version, &err);
    if (rc == 0 && version != a->version) {
        rc = access_reload(a, &err);
        a->version = rc ? a->version : version;
    }
    a->looked_ns = now;
    if (rc && !a->warned) {
        log_line(LOG_ERROR, "access", "cannot read the keys again, those known so far stay: %s", err.message);
    }
    a->warned = rc != 0;
}

/* ---- writing what was used ------------------------------------------------------------------------------------------------ */

/* Copies one slot that is to be written: 0 when there is none left from *at on. */
static int dirty_next(struct access *a, size_t *at, struct state_key_row *out)
{
    (void)pthread_mutex_lock(&a->lock);
    while (*at < a->n && !a->at[*at].dirty) {
        (*at)++;
    }
    int found = *at < a->n;
    if (found) {
        a->at[*at].dirty = 0;
        *out = a->at[(*at)++].key;
    }
    (void)pthread_mutex_unlock(&a->lock);
    return found;
}

static void access_write(struct access *a)
{
    struct state_key_row key;
    size_t at = 0;
    while (dirty_next(a, &at, &key)) {
        struct claas_error err = ERR_INIT;
        if (state_key_used(a->state, key.id, &key.use, &err)) {
            log_line(LOG_WARNING, "access", "cannot write what the key '%s' has used: %s", key.id, err.message);
        }
    }
}

static void *access_writer(void *ctx)
{
    struct access *a = ctx;
    int stopping = 0;
    while (!stopping) {
        int64_t until = clock_mono_ns() + WRITE_NS;
        struct timespec when = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
        int late = 0;
        (void)pthread_mutex_lock(&a->lock);
        while (!a->stopping && !late) {
            late = pthread_cond_timedwait(&a->wake, &a->lock, &when) != 0;
        }
        stopping = a->stopping;
        (void)pthread_mutex_unlock(&a->lock);
        access_write(a);
    }
    return NULL;
}

/* ---- open, close ------------------------------------------------------------------------------------------------------------ */

int access_open(const char *dir, struct state *state, enum access_mode mode, struct access **out,
                struct claas_error *err)
{
    struct access *a = calloc(1, sizeof *a);
    pthread_condattr_t attr;
    if (!a) {
        return err_oom(err, "the keys");
    }
    a->mode = mode;
    a->state = state;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&a->lock, NULL);
    (void)pthread_cond_init(&a->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    int rc = state_open_beside(dir, &a->reader, err);
    if (rc == 0) {
        rc = state_version(a->reader, &a->version, err);
    }
    if (rc == 0) {
        rc = access_reload(a, err);
    }
    if (rc == 0 && pthread_create(&a->writer, NULL, access_writer, a)) {
        rc = err_set(err, CLAAS_ERR_EXHAUSTED, "", "cannot start a thread");
    }
    a->writer_runs = rc == 0;
    if (rc) {
        access_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void access_close(struct access *a)
{
    if (!a) {
        return;
    }
    if (a->writer_runs) {
        (void)pthread_mutex_lock(&a->lock);
        a->stopping = 1;
        (void)pthread_cond_broadcast(&a->wake);
        (void)pthread_mutex_unlock(&a->lock);
        (void)pthread_join(a->writer, NULL);
    }
    state_close(a->reader);
    free(a->at);
    (void)pthread_cond_destroy(&a->wake);
    (void)pthread_mutex_destroy(&a->lock);
    free(a);
}

/* ---- who is it -------------------------------------------------------------------------------------------------------------- */

/* Under the lock. The secret is compared before anything is said of the key, so that strangers learn nothing of it. */
static int slot_check(struct access *a, const char *token, struct slot **out, struct claas_error *err)
{
    char id[STATE_KEY_ID_CAP];
    const char *secret = NULL;
    struct claas_digest hash;
    if (!token) {
        return err_set(err, CLAAS_ERR_UNAUTHORISED, "authorization",
                       "an API key is needed: send it as 'Authorization: Bearer KEY'");
    }
    struct slot *k = token_split(token, id, &secret) ? slot_find(a, id) : NULL;
    if (!k && secret) {
        access_look(a, LOOK_MISS_NS);
        k = slot_find(a, id);
    }
    int rc = secret ? sha256_of(secret, KEY_SECRET_DIGITS, &hash, err) : 0;
    if (rc) {
        return rc;
    }
    if (!k || CRYPTO_memcmp(hash.b, k->key.hash.b, sizeof hash.b) != 0) {
        return err_set(err, CLAAS_ERR_UNAUTHORISED, "authorization", "the API key is not known");
    }
    if (k->key.revoked_ns) {
        return err_set(err, CLAAS_ERR_UNAUTHORISED, "authorization", "the API key '%s' was revoked", id);
    }
    if (k->key.expires_ns && clock_real_ns() >= k->key.expires_ns) {
        return err_set(err, CLAAS_ERR_UNAUTHORISED, "authorization", "the API key '%s' has expired", id);
    }
    *out = k;
    return 0;
}

int access_admit(struct access *a, const char *token, struct access_caller *out, struct claas_error *err)
{
    struct slot *k = NULL;
    *out = (struct access_caller){ .rights = ACCESS_CHAT | ACCESS_FEEDBACK | ACCESS_ADMIN };
    if (a->mode == ACCESS_OFF) {
        return 0;
    }
    (void)pthread_mutex_lock(&a->lock);
    access_look(a, LOOK_NS);
    int rc = 0;
    if (a->mode == ACCESS_ON || a->n > 0) {
        *out = (struct access_caller){ 0 };
        rc = slot_check(a, token, &k, err);
    }
    if (k) {
        rc = quota_request(k, clock_real_ns(), err);
    }
    if (k && rc == 0) {
        (void)snprintf(out->key, sizeof out->key, "%s", k->key.id);
        (void)snprintf(out->prefix, sizeof out->prefix, "%s", k->key.prefix);
        out->rights = k->key.rights;
    }
    (void)pthread_mutex_unlock(&a->lock);
    return rc;
}

int access_step(struct access *a, const struct access_caller *c, struct claas_error *err)
{
    (void)pthread_mutex_lock(&a->lock);
    struct slot *k = slot_find(a, c->key);
    int rc = k ? quota_step(k, clock_real_ns(), err) : 0;
    (void)pthread_mutex_unlock(&a->lock);
    return rc;
}

void access_step_back(struct access *a, const struct access_caller *c)
{
    (void)pthread_mutex_lock(&a->lock);
    struct slot *k = slot_find(a, c->key);
    if (k && k->key.use.hour_steps > 0) {
        k->key.use.hour_steps--;
        k->dirty = 1;
    }
    (void)pthread_mutex_unlock(&a->lock);
}

void access_bytes(struct access *a, const struct access_caller *c, uint64_t bytes)
{
    if (!c->key[0]) {
        return;
    }
    (void)pthread_mutex_lock(&a->lock);
    struct slot *k = slot_find(a, c->key);
    if (k) {
        quota_bytes(k, clock_real_ns(), bytes);
    }
    (void)pthread_mutex_unlock(&a->lock);
}
