/* SPDX-License-Identifier: MIT */
/* Which version answers: the pool of what is loaded, counted per serve digest, and for each adapter a pointer that moves
 * only after the new version has been loaded. A request keeps the version it began with. */
#include "config.h"

#include "serving/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_MAX_MS = 60000, WAIT_MS = 200 };

/* Waits on a condition for at most `ms`. */
static void wait_ms(struct serving *s, pthread_cond_t *cond, int64_t ms)
{
    int64_t until = clock_mono_ns() + ms * 1000000;
    struct timespec t = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
    (void)pthread_cond_timedwait(cond, &s->mutex, &t); /* the caller looks again in any case */
}

/* ---- the pool: all under the mutex ----------------------------------------------------------- */

static struct loaded *pool_find(struct serving *s, const struct claas_digest *serve)
{
    struct loaded *l = s->pool;
    while (l != NULL && !sha256_equal(&l->serve, serve)) {
        l = l->next;
    }
    return l;
}

static void pool_remove(struct serving *s, struct loaded *l)
{
    struct loaded **at = &s->pool;
    while (*at != l) {
        at = &(*at)->next;
    }
    *at = l->next;
    free(l);
}

/* One user less. What nobody names is the keeper's to unload. *out_drop: a reference to give back without the mutex. */
static void pool_let_go(struct serving *s, struct loaded *l, struct adapter_version **out_drop)
{
    l->users--;
    l->last_used = ++s->clock;
    if (l->users > 0) {
        return;
    }
    if (l->state == LOADED_NOT) {
        *out_drop = l->version;
        pool_remove(s, l);
    } else {
        (void)pthread_cond_signal(&s->work);
    }
}

/* Loads what the caller has marked COMING. */
static int pool_load(struct serving *s, struct loaded *l, const struct claas_call *call, struct claas_error *err)
{
    const struct claas_version *version = adapter_version_abi(l->version);
    (void)pthread_mutex_unlock(&s->mutex);
    int rc = host_has(s->inference, inference, load) ? host_inference_load(s->inference, version, call, err) : 0;
    (void)pthread_mutex_lock(&s->mutex);
    l->state = rc == 0 ? LOADED_THERE : LOADED_NOT;
    (void)pthread_cond_broadcast(&s->changed);
    return rc;
}

/* Shapes may fit where weights do not: an adapter answers with the base model it was trained on, or not at all. */
static int base_check(const struct serving *s, const struct adapter_version *version, struct claas_error *err)
{
    const struct adapter_entry *entry = adapter_version_entry(version);
    struct claas_model model = { .size = sizeof model };
    if (host_model(s->inference, &model, NULL) != 0 || model.base[0] == '\0' || entry->base[0] == '\0' ||
        strcmp(model.base, entry->base) == 0) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_INVALID, "model",
                   "cannot answer by '%s': it belongs to the base model '%s', and another one is served",
                   adapter_version_abi(version)->label, entry->base_name[0] != '\0' ? entry->base_name : entry->base);
}

/* Makes sure the version is loaded, and counts one user of it. */
static int pool_take(struct serving *s, struct adapter_version *version, const struct claas_call *call,
                     struct loaded **out, struct claas_error *err)
{
    const struct claas_digest *serve = &adapter_version_abi(version)->serve;
    struct adapter_version *drop = NULL;
    int rc = base_check(s, version, err);
    if (rc != 0) {
        return rc;
    }
    (void)pthread_mutex_lock(&s->mutex);
    struct loaded *l = pool_find(s, serve);
    if (l == NULL) {
        l = calloc(1, sizeof *l);
        if (l == NULL) {
            (void)pthread_mutex_unlock(&s->mutex);
            return err_oom(err, "a version to load");
        }
        *l = (struct loaded){ .next = s->pool, .version = adapter_version_ref(version), .serve = *serve };
        s->pool = l;
    }
    l->users++;
    while (rc == 0 && l->state != LOADED_THERE) {
        if (l->state == LOADED_NOT) {
            l->state = LOADED_COMING;
            rc = pool_load(s, l, call, err);
        } else {
            wait_ms(s, &s->changed, WAIT_MS);
            if (call != NULL && call->left_ms(call) == 0) {
                rc = err_set(err, CLAAS_ERR_TIMEOUT, "model", "cannot wait for '%s' to be loaded: the time is over",
                             adapter_version_abi(version)->label);
            }
        }
    }
    if (rc != 0) {
        pool_let_go(s, l, &drop);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    adapter_version_unref(drop);
    if (rc == 0) {
        *out = l;
    }
    return rc;
}

static void pool_give(struct serving *s, struct loaded *l)
{
    struct adapter_version *drop = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    pool_let_go(s, l, &drop);
    (void)pthread_mutex_unlock(&s->mutex);
    adapter_version_unref(drop);
}

/* The one to unload next, null if few enough lie idle. */
static struct loaded *pool_idle(struct serving *s, uint32_t keep)
{
    struct loaded *oldest = NULL;
    uint32_t idle = 0;
    for (struct loaded *l = s->pool; l != NULL; l = l->next) {
        if (l->state == LOADED_THERE && l->users == 0) {
            idle++;
            if (oldest == NULL || l->last_used < oldest->last_used) {
                oldest = l;
            }
        }
    }
    return idle > keep ? oldest : NULL;
}

static void pool_unload(struct serving *s, struct loaded *l)
{
    struct claas_error err = ERR_INIT;
    l->state = LOADED_GOING;
    (void)pthread_mutex_unlock(&s->mutex);
    if (host_has(s->inference, inference, unload) &&
        host_inference_unload(s->inference, &l->serve, NULL, &err) != 0) {
        log_line(LOG_WARNING, "serving", "cannot unload '%s': %s", adapter_version_abi(l->version)->label,
                 err.message);
    }
    (void)pthread_mutex_lock(&s->mutex);
    l->state = LOADED_NOT;
    (void)pthread_cond_broadcast(&s->changed);
    if (l->users == 0) {
        struct adapter_version *drop = l->version;
        pool_remove(s, l);
        (void)pthread_mutex_unlock(&s->mutex);
        adapter_version_unref(drop);
        (void)pthread_mutex_lock(&s->mutex);
    }
}

/* ---- slots: under the mutex unless said otherwise -------------------------------------------- */

static struct slot *slot_find(struct serving *s, const char *id)
{
    struct slot *slot = s->slots;
    while (slot != NULL && strcmp(slot->id, id) != 0) {
        slot = slot->next;
    }
    return slot;
}

static struct slot *slot_make(struct serving *s, const char *id)
{
    struct slot *slot = slot_find(s, id);
    if (slot == NULL && (slot = calloc(1, sizeof *slot)) != NULL) {
        (void)snprintf(slot->id, sizeof slot->id, "%s", id);
        slot->next = s->slots;
        s->slots = slot;
    }
    return slot;
}

/* The version the slot points at, pinned for a request. */
static void slot_pin(const struct slot *slot, struct lease *out)
{
    *out = (struct lease){ .version = adapter_version_ref(slot->version), .loaded = slot->loaded, .n = slot->n,
                           .serve = slot->loaded->serve };
    slot->loaded->users++;
    (void)snprintf(out->adapter, sizeof out->adapter, "%s", slot->id);
}

/* A failure to move on to version n: remembered, to be tried again by the keeper. */
static void slot_failed(struct serving *s, const char *id, uint64_t n, const struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct slot *slot = slot_make(s, id);
    if (slot != NULL) {
        slot->coming = slot->coming == n ? 0 : slot->coming;
        slot->retry_ms = slot->failed != n ? s->retry_ms : slot->retry_ms * 2;
        slot->retry_ms = slot->retry_ms > RETRY_MAX_MS ? RETRY_MAX_MS : slot->retry_ms;
        slot->failed = n;
        slot->retry_at_ns = clock_mono_ns() + (int64_t)slot->retry_ms * 1000000;
        (void)snprintf(slot->why, sizeof slot->why, "%.199s", err->message);
        (void)pthread_cond_signal(&s->work);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    log_line(LOG_WARNING, "serving", "cannot load '%s@%llu', the old version goes on answering: %s", id,
             (unsigned long long)n, err->message);
}

/* The pointer moves, never backwards. Takes over one user of l and one reference of version. */
static void slot_move(struct serving *s, const char *id, uint64_t n, struct adapter_version *version,
                      struct loaded *l)
{
    struct adapter_version *drop[2] = { version, NULL };
    (void)pthread_mutex_lock(&s->mutex);
    struct slot *slot = slot_make(s, id);
    if (slot != NULL && slot->n < n) {
        struct loaded *old = slot->loaded;
        drop[0] = slot->version;
        slot->version = version;
        slot->loaded = l;
        slot->n = n;
        l = old;
    }
    if (slot != NULL) {
        slot->coming = slot->coming <= n ? 0 : slot->coming;
        slot->failed = slot->failed <= n ? 0 : slot->failed;
    }
    if (l != NULL) {
        pool_let_go(s, l, &drop[1]);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    adapter_version_unref(drop[0]);
    adapter_version_unref(drop[1]);
}

static void slot_free(struct serving *s, struct slot *slot)
{
    struct adapter_version *drop = NULL;
    if (slot->loaded != NULL) {
        pool_let_go(s, slot->loaded, &drop);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    adapter_version_unref(slot->version);
    adapter_version_unref(drop);
    free(slot);
    (void)pthread_mutex_lock(&s->mutex);
}

void serving_forget(struct serving *s, const char *id)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct slot **at = &s->slots;
    while (*at != NULL && strcmp((*at)->id, id) != 0) {
        at = &(*at)->next;
    }
    struct slot *slot = *at;
    if (slot != NULL) {
        *at = slot->next;
        slot_free(s, slot);
    }
    (void)pthread_mutex_unlock(&s->mutex);
}

/* Loads version n of id and moves the pointer to it. Without the mutex. */
static int head_load(struct serving *s, const char *id, uint64_t n, const struct claas_call *call,
                     struct claas_error *err)
{
    struct adapter_version *version = NULL;
    struct loaded *l = NULL;
    int rc = adapter_version_get(s->adapters, id, n, call, &version, err);
    if (rc == 0) {
        rc = pool_take(s, version, call, &l, err);
    }
    if (rc == 0) {
        slot_move(s, id, n, version, l);
    } else {
        adapter_version_unref(version);
    }
    return rc;
}

int serving_follow(struct serving *s, const char *id, const struct claas_call *call, struct claas_error *err)
{
    struct claas_error local = ERR_INIT;
    struct adapter_entry *head = NULL;
    err = err == NULL ? &local : err;
    if (s->inference == NULL || s->adapters == NULL) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "engine", "cannot serve '%s': no engine configured", id);
    }
    int rc = adapter_head(s->adapters, id, call, &head, err);
    if (rc != 0) {
        return rc;
    }
    rc = head_load(s, id, head->n, call, err);
    if (rc != 0) {
        slot_failed(s, id, head->n, err);
    }
    adapter_entry_unref(head);
    return rc;
}

/* ---- leases ---------------------------------------------------------------------------------- */

/* The pointer as it stands, when it is the head, when somebody is already busy moving it, or when moving it has failed
 * and is the keeper's matter; else 0, and this request is the one to move it. */
static int lease_standing(struct serving *s, const char *id, uint64_t head, struct lease *out)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct slot *slot = slot_make(s, id);
    int there = slot != NULL && slot->version != NULL &&
                (slot->n >= head || slot->coming == head || slot->failed == head);
    if (there) {
        slot_pin(slot, out);
    } else if (slot != NULL) {
        slot->coming = head;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return there;
}

/* Whatever the pointer says, 0 if it says nothing. */
static int lease_old(struct serving *s, const char *id, struct lease *out)
{
    (void)pthread_mutex_lock(&s->mutex);
    const struct slot *slot = slot_find(s, id);
    int there = slot != NULL && slot->version != NULL;
    if (there) {
        slot_pin(slot, out);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return there;
}

static int lease_head(struct serving *s, const char *id, const struct claas_call *call, struct lease *out,
                      struct claas_error *err)
{
    struct adapter_entry *head = NULL;
    int rc = adapter_head(s->adapters, id, call, &head, err);
    if (rc == CLAAS_ERR_NOT_FOUND) {
        serving_forget(s, id);
    }
    if (rc != 0) {
        /* The store is out of reach or the log is damaged: what is loaded goes on answering. */
        return rc != CLAAS_ERR_NOT_FOUND && lease_old(s, id, out) ? 0 : rc;
    }
    uint64_t n = head->n;
    adapter_entry_unref(head);
    if (lease_standing(s, id, n, out)) {
        return 0;
    }
    rc = head_load(s, id, n, call, err);
    if (rc != 0) {
        slot_failed(s, id, n, err);
    }
    if (lease_old(s, id, out)) {
        return 0;
    }
    return rc != 0 ? rc : err_set(err, CLAAS_ERR_NOT_FOUND, "model", "'%s' was deleted meanwhile", id);
}

static int lease_fixed(struct serving *s, const struct adapter_name *name, const struct claas_call *call,
                       struct lease *out, struct claas_error *err)
{
    struct lease lease = { .n = name->n };
    int rc = adapter_version_get(s->adapters, name->id, name->n, call, &lease.version, err);
    if (rc == 0) {
        rc = pool_take(s, lease.version, call, &lease.loaded, err);
    }
    if (rc != 0) {
        adapter_version_unref(lease.version);
        return rc;
    }
    lease.serve = lease.loaded->serve;
    (void)snprintf(lease.adapter, sizeof lease.adapter, "%s", name->id);
    *out = lease;
    return 0;
}

static int is_base_name(const struct serving *s, const char *model)
{
    return s->model_name[0] != '\0' && strcmp(model, s->model_name) == 0;
}

/* "default" is what existing clients are told an empty name means, so they may send it back. */
static int resolve(struct serving *s, const char *model, const struct claas_call *call, struct adapter_name *out,
                   struct claas_error *err)
{
    const char *name = model == NULL ? "" : model;
    if (s->adapters == NULL) {
        *out = (struct adapter_name){ .n = 0 };
        if (name[0] == '\0' || is_base_name(s, name) || strcmp(name, "default") == 0) {
            return 0;
        }
        return err_set(err, CLAAS_ERR_NOT_FOUND, "model", "there is no model '%s'", name);
    }
    if (name[0] == '\0' && is_base_name(s, s->default_model)) {
        *out = (struct adapter_name){ .n = 0 };
        return 0;
    }
    int rc = adapter_resolve(s->adapters, name, s->default_model, call, out, err);
    if (rc == CLAAS_ERR_NOT_FOUND || rc == CLAAS_ERR_INVALID) {
        if (is_base_name(s, name)) {
            *out = (struct adapter_name){ .n = 0 };
            return 0;
        }
        if (strcmp(name, "default") == 0) {
            return resolve(s, "", call, out, err);
        }
        return err_set(err, CLAAS_ERR_NOT_FOUND, "model", "there is no model '%s'", name);
    }
    return rc;
}

/* The default model is everybody's: it is what a chat without a name needs. */
static int is_within(const struct serving *s, const char *prefix, const char *id)
{
    size_t n = prefix == NULL ? 0 : strlen(prefix);
    return n == 0 || id[0] == '\0' || (s->default_model != NULL && strcmp(id, s->default_model) == 0) ||
           (strncmp(prefix, id, n) == 0 && (id[n] == '/' || id[n] == '\0'));
}

int lease_take(struct serving *s, const char *model, const char *prefix, const struct claas_call *call,
               struct lease *out, struct claas_error *err)
{
    struct adapter_name name;
    int rc = resolve(s, model, call, &name, err);
    if (rc == 0 && !is_within(s, prefix, name.id)) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "model", "there is no model '%s'", model);
    }
    if (rc != 0) {
        return rc;
    }
    if (name.id[0] == '\0') {
        *out = (struct lease){ .n = 0 };
        return 0;
    }
    return name.n != 0 ? lease_fixed(s, &name, call, out, err) : lease_head(s, name.id, call, out, err);
}

void lease_release(struct serving *s, struct lease *lease)
{
    if (lease->loaded != NULL) {
        pool_give(s, lease->loaded);
    }
    adapter_version_unref(lease->version);
    *lease = (struct lease){ .n = 0 };
}

const struct claas_version *lease_abi(const struct lease *lease)
{
    return lease->version == NULL ? NULL : adapter_version_abi(lease->version);
}

/* ---- the keeper ------------------------------------------------------------------------------ */

/* The next slot to try again; *out_wait_ms: how long until there is one. */
static const struct slot *slot_due(struct serving *s, int64_t *out_wait_ms)
{
    int64_t now = clock_mono_ns();
    *out_wait_ms = RETRY_MAX_MS;
    for (const struct slot *slot = s->slots; slot != NULL; slot = slot->next) {
        if (slot->failed == 0) {
            continue;
        }
        if (slot->retry_at_ns <= now) {
            return slot;
        }
        int64_t ms = (slot->retry_at_ns - now) / 1000000 + 1;
        *out_wait_ms = ms < *out_wait_ms ? ms : *out_wait_ms;
    }
    return NULL;
}

static void *keep(void *ctx)
{
    struct serving *s = ctx;
    (void)pthread_mutex_lock(&s->mutex);
    while (!s->closing) {
        int64_t ms = 0;
        struct loaded *idle = pool_idle(s, s->keep_loaded);
        const struct slot *due = idle == NULL ? slot_due(s, &ms) : NULL;
        if (idle != NULL) {
            pool_unload(s, idle);
        } else if (due != NULL) {
            char id[ADAPTER_ID_CAP];
            struct claas_error err = ERR_INIT;
            (void)snprintf(id, sizeof id, "%s", due->id);
            (void)pthread_mutex_unlock(&s->mutex);
            int rc = serving_follow(s, id, NULL, &err);
            if (rc == CLAAS_ERR_NOT_FOUND) {
                serving_forget(s, id);
            }
            (void)pthread_mutex_lock(&s->mutex);
            struct slot *same = slot_find(s, id);
            if (rc != 0 && same != NULL && same->retry_at_ns <= clock_mono_ns()) {
                /* the log itself cannot be read */
                same->retry_at_ns = clock_mono_ns() + RETRY_MAX_MS * INT64_C(1000000);
            }
        } else {
            wait_ms(s, &s->work, ms);
        }
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return NULL;
}

int versions_open(struct serving *s, struct claas_error *err)
{
    if (s->inference == NULL || s->adapters == NULL) {
        return 0;
    }
    if (pthread_create(&s->keeper, NULL, keep, s) != 0) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot start the thread that keeps versions loaded");
    }
    s->has_keeper = 1;
    return 0;
}

void versions_close(struct serving *s)
{
    (void)pthread_mutex_lock(&s->mutex);
    s->closing = 1;
    (void)pthread_cond_signal(&s->work);
    (void)pthread_mutex_unlock(&s->mutex);
    if (s->has_keeper) {
        (void)pthread_join(s->keeper, NULL);
    }
    while (s->slots != NULL) {
        serving_forget(s, s->slots->id);
    }
    (void)pthread_mutex_lock(&s->mutex);
    for (struct loaded *l = pool_idle(s, 0); l != NULL; l = pool_idle(s, 0)) {
        pool_unload(s, l);
    }
    (void)pthread_mutex_unlock(&s->mutex);
}
