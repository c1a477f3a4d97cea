/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/warm.h"

#include "base/err.h"
#include "base/sha256.h"

#include <pthread.h>
#include <stdlib.h>

enum { MOMENTS_KEPT = 2 }; /* versions whose moments stay: two thirds of an adapter's memory */

struct entry {
    struct warm_adapter adapter; /* first: a hold is a pointer to it */
    struct entry *next;
    struct claas_digest state;
    struct claas_digest serve;
    struct claas_digest key;
    int has_state;
    int has_serve;
    int has_key;
    size_t holders;
    uint64_t used; /* clock of the last hold; greater is newer; 0: unloaded since */
};

struct warm {
    pthread_mutex_t lock; /* everything below, and each entry's fields but those of a held adapter's lora */
    struct entry *first;
    uint64_t clock;
    uint64_t max_bytes;
    size_t max_count;
};

static void entry_free(struct entry *e)
{
    lora_free(e->adapter.lora);
    optim_free(e->adapter.moments);
    free(e->adapter.metrics);
    free(e);
}

static uint64_t entry_bytes(const struct entry *e)
{
    uint64_t n = e->adapter.lora->n;
    return (n + (e->adapter.moments ? 2 * n : 0)) * sizeof(float);
}

int warm_new(struct warm **out, struct claas_error *err)
{
    struct warm *w = calloc(1, sizeof *w);
    if (!w) {
        return err_oom(err, "keeping adapters");
    }
    if (pthread_mutex_init(&w->lock, NULL)) {
        free(w);
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot make a lock");
    }
    w->max_bytes = UINT64_MAX;
    w->max_count = SIZE_MAX;
    *out = w;
    return 0;
}

void warm_free(struct warm *w)
{
    if (w) {
        while (w->first) {
            struct entry *e = w->first;
            w->first = e->next;
            entry_free(e);
        }
        pthread_mutex_destroy(&w->lock);
        free(w);
    }
}

/* ---- dropping, all under the lock ---- */

static void drop(struct warm *w, struct entry *dead)
{
    struct entry **at = &w->first;
    while (*at != dead) {
        at = &(*at)->next;
    }
    *at = dead->next;
    entry_free(dead);
}

/* The least recently used entry that nobody holds, or null; with_moments: among those that have them. */
static struct entry *oldest(const struct warm *w, int with_moments, size_t *out_among)
{
    struct entry *found = NULL;
    *out_among = 0;
    for (struct entry *e = w->first; e; e = e->next) {
        if (with_moments && !e->adapter.moments) {
            continue;
        }
        (*out_among)++;
        if (!e->holders && (!found || e->used < found->used)) {
            found = e;
        }
    }
    return found;
}

static uint64_t total_bytes(const struct warm *w)
{
    uint64_t sum = 0;
    for (const struct entry *e = w->first; e; e = e->next) {
        sum += entry_bytes(e);
    }
    return sum;
}

static void shrink(struct warm *w)
{
    size_t among;
    struct entry *e = oldest(w, 1, &among);
    while (e && among > MOMENTS_KEPT) {
        optim_free(e->adapter.moments);
        e->adapter.moments = NULL;
        e = oldest(w, 1, &among);
    }
    e = oldest(w, 0, &among);
    while (e && (among > w->max_count || total_bytes(w) > w->max_bytes)) {
        drop(w, e);
        e = oldest(w, 0, &among);
    }
}

/* Of no use for going on with training: its moments are elsewhere. */
static int answers_only(const struct entry *e)
{
    return e->adapter.has_moments && !e->adapter.moments;
}

/* What is there for answering only is not needed beside another that answers the same. A complete one stays: its state
 * may be another, or it is found by its key. */
static void drop_doubles(struct warm *w, const struct claas_digest *serve)
{
    struct entry *e = w->first;
    while (e) {
        struct entry *next = e->next;
        if (e->has_serve && !e->holders && answers_only(e) && sha256_equal(&e->serve, serve)) {
            drop(w, e);
        }
        e = next;
    }
}

/* Gone at once after warm_unload, or when its last holder lets go: nothing but answers came from it. */
static void drop_unloaded(struct warm *w, struct entry *e)
{
    if (!e->used && !e->holders && answers_only(e)) {
        drop(w, e);
    }
}

void warm_set_bounds(struct warm *w, uint64_t bytes, size_t count)
{
    pthread_mutex_lock(&w->lock);
    w->max_bytes = bytes;
    w->max_count = count;
    shrink(w);
    pthread_mutex_unlock(&w->lock);
}

/* ---- in and out ---- */

static const struct warm_adapter *hold(struct warm *w, struct entry *e)
{
    if (!e) {
        return NULL;
    }
    e->holders++;
    e->used = ++w->clock;
    return &e->adapter;
}

int warm_put(struct warm *w, const struct warm_keys *keys, struct warm_adapter *adapter,
             const struct warm_adapter **out, struct claas_error *err)
{
    struct entry *e = calloc(1, sizeof *e);
    if (!e) {
        return err_oom(err, "keeping an adapter");
    }
    e->adapter = *adapter;
    *adapter = (struct warm_adapter){ 0 };
    if (keys->state) {
        e->state = *keys->state;
        e->has_state = 1;
    }
    if (keys->serve) {
        e->serve = *keys->serve;
        e->has_serve = 1;
    }
    if (keys->key) {
        e->key = *keys->key;
        e->has_key = 1;
    }
    pthread_mutex_lock(&w->lock);
    if (e->has_serve) {
        drop_doubles(w, &e->serve);
    }
    e->next = w->first;
    w->first = e;
    *out = hold(w, e);
    shrink(w);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

const struct warm_adapter *warm_find_state(struct warm *w, const struct claas_digest *state)
{
    pthread_mutex_lock(&w->lock);
    struct entry *e = w->first;
    while (e && !(e->has_state && sha256_equal(&e->state, state) && !answers_only(e))) {
        e = e->next;
    }
    const struct warm_adapter *found = hold(w, e);
    pthread_mutex_unlock(&w->lock);
    return found;
}

const struct warm_adapter *warm_find_serve(struct warm *w, const struct claas_digest *serve)
{
    pthread_mutex_lock(&w->lock);
    struct entry *e = w->first;
    while (e && !(e->has_serve && sha256_equal(&e->serve, serve))) {
        e = e->next;
    }
    const struct warm_adapter *found = hold(w, e);
    pthread_mutex_unlock(&w->lock);
    return found;
}

const struct warm_adapter *warm_find_key(struct warm *w, const struct claas_digest *key)
{
    pthread_mutex_lock(&w->lock);
    struct entry *e = w->first;
    while (e && !(e->has_key && sha256_equal(&e->key, key) && !answers_only(e))) {
        e = e->next;
    }
    const struct warm_adapter *found = hold(w, e);
    pthread_mutex_unlock(&w->lock);
    return found;
}

void warm_release(struct warm *w, const struct warm_adapter *adapter)
{
    if (!adapter) {
        return;
    }
    pthread_mutex_lock(&w->lock);
    for (struct entry *e = w->first; e; e = e->next) {
        if (&e->adapter == adapter) {
            e->holders--;
            drop_unloaded(w, e);
            break;
        }
    }
    shrink(w);
    pthread_mutex_unlock(&w->lock);
}

void warm_unload(struct warm *w, const struct claas_digest *serve)
{
    pthread_mutex_lock(&w->lock);
    struct entry *e = w->first;
    while (e) {
        struct entry *next = e->next;
        if (e->has_serve && sha256_equal(&e->serve, serve)) {
            e->used = 0;
            drop_unloaded(w, e);
        }
        e = next;
    }
    shrink(w);
    pthread_mutex_unlock(&w->lock);
}

size_t warm_count(struct warm *w)
{
    size_t n = 0;
    pthread_mutex_lock(&w->lock);
    for (const struct entry *e = w->first; e; e = e->next) {
        n++;
    }
    pthread_mutex_unlock(&w->lock);
    return n;
}

uint64_t warm_bytes(struct warm *w)
{
    pthread_mutex_lock(&w->lock);
    uint64_t n = total_bytes(w);
    pthread_mutex_unlock(&w->lock);
    return n;
}
