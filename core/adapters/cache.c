/* SPDX-License-Identifier: MIT */
/* What is remembered of the store: entries (immutable, so never stale), the last known head of each
 * id, and which files were compared with their digests. All bounded; the longest unused goes
 * first. */
#include "config.h"

#include "internal.h"

#include "base/err.h"

#include <string.h>

static struct cache_slot *cache_find(struct adapters *a, const char *id, uint64_t n)
{
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        struct cache_slot *s = &a->cache[i];
        if (s->entry && (n ? s->entry->n == n : s->is_head) && strcmp(s->entry->id, id) == 0) {
            return s;
        }
    }
    return NULL;
}

static struct adapter_entry *cache_look(struct adapters *a, const char *id, uint64_t n)
{
    (void)pthread_mutex_lock(&a->lock);
    struct cache_slot *s = cache_find(a, id, n);
    struct adapter_entry *e = NULL;
    if (s) {
        s->used = ++a->tick;
        e = adapter_entry_ref(s->entry);
    }
    a->cache_hits += s != NULL;
    a->cache_misses += s == NULL;
    (void)pthread_mutex_unlock(&a->lock);
    return e;
}

void adapters_count(struct adapters *a, struct adapters_counts *out)
{
    (void)pthread_mutex_lock(&a->lock);
    *out = (struct adapters_counts){ .hits = a->cache_hits,
                                     .misses = a->cache_misses,
                                     .bytes = a->cache_bytes,
                                     .known = a->flat.n };
    (void)pthread_mutex_unlock(&a->lock);
}

struct adapter_entry *cache_get(struct adapters *a, const char *id, uint64_t n)
{
    return n ? cache_look(a, id, n) : NULL;
}

struct adapter_entry *cache_head(struct adapters *a, const char *id)
{
    return cache_look(a, id, 0);
}

static void slot_clear(struct adapters *a, struct cache_slot *s)
{
    if (s->entry) {
        a->cache_bytes -= s->bytes;
        adapter_entry_unref(s->entry);
        *s = (struct cache_slot){ 0 };
    }
}

/* A slot for `bytes` more, after throwing out what was unused the longest. */
static struct cache_slot *cache_room(struct adapters *a, size_t bytes)
{
    for (;;) {
        struct cache_slot *oldest = NULL;
        struct cache_slot *empty = NULL;
        for (size_t i = 0; i < CACHE_SLOTS; i++) {
            struct cache_slot *s = &a->cache[i];
            if (!s->entry) {
                empty = s;
            } else if (!oldest || s->used < oldest->used) {
                oldest = s;
            }
        }
        if (empty && (!oldest || a->cache_bytes + bytes <= CACHE_BYTES_MAX)) {
            return empty;
        }
        slot_clear(a, oldest);
    }
}

void cache_put(struct adapters *a, struct adapter_entry *e, int is_head)
{
    (void)pthread_mutex_lock(&a->lock);
    struct cache_slot *head = is_head ? cache_find(a, e->id, 0) : NULL;
    if (head && head->entry->n < e->n) {
        head->is_head = 0;
    } else if (head && head->entry->n > e->n) {
        is_head = 0; /* somebody saw further meanwhile */
    }
    struct cache_slot *s = cache_find(a, e->id, e->n);
    if (!s) {
        s = cache_room(a, entry_bytes(e));
        s->entry = adapter_entry_ref(e);
        s->bytes = entry_bytes(e);
        a->cache_bytes += s->bytes;
    }
    s->used = ++a->tick;
    s->is_head |= is_head;
    (void)pthread_mutex_unlock(&a->lock);
}

void cache_clear(struct adapters *a)
{
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        slot_clear(a, &a->cache[i]);
    }
}

int cache_is_verified(struct adapters *a, const struct claas_digest *sha256,
                      const struct verified *file)
{
    int found = 0;
    (void)pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < VERIFIED_SLOTS && !found; i++) {
        const struct verified *v = &a->verified[i];
        found = v->ino == file->ino && v->dev == file->dev && v->bytes == file->bytes &&
                v->modified_ns == file->modified_ns && v->ino != 0 &&
                sha256_equal(&v->sha256, sha256);
    }
    (void)pthread_mutex_unlock(&a->lock);
    return found;
}

void cache_set_verified(struct adapters *a, const struct verified *file)
{
    (void)pthread_mutex_lock(&a->lock);
    a->verified[a->next_verified++ % VERIFIED_SLOTS] = *file;
    (void)pthread_mutex_unlock(&a->lock);
}
