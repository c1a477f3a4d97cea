/* SPDX-License-Identifier: MIT */
#include <config.h>

#include "server/snapshot.h"

#include "base/err.h"

#include <stdatomic.h>
#include <stdlib.h>

struct snapshot {
    atomic_uint refs;
    struct config *config;
};

void snapshots_init(struct snapshots *all)
{
    (void)pthread_mutex_init(&all->lock, NULL);
    all->now = NULL;
}

void snapshots_close(struct snapshots *all)
{
    snapshot_drop(all->now);
    (void)pthread_mutex_destroy(&all->lock);
}

int snapshots_swap(struct snapshots *all, struct config *config, struct claas_error *err)
{
    struct snapshot *s = calloc(1, sizeof *s);
    if (!s) {
        return err_oom(err, "reloading");
    }
    atomic_init(&s->refs, 1);
    s->config = config;
    (void)pthread_mutex_lock(&all->lock);
    struct snapshot *before = all->now;
    all->now = s;
    (void)pthread_mutex_unlock(&all->lock);
    snapshot_drop(before);
    return 0;
}

/* Under the lock, so that the last reference cannot go between looking and counting. */
struct snapshot *snapshot_take(struct snapshots *all)
{
    (void)pthread_mutex_lock(&all->lock);
    struct snapshot *s = all->now;
    if (s) {
        (void)atomic_fetch_add(&s->refs, 1);
    }
    (void)pthread_mutex_unlock(&all->lock);
    return s;
}

void snapshot_drop(struct snapshot *s)
{
    if (s && atomic_fetch_sub(&s->refs, 1) == 1) {
        config_free(s->config);
        free(s);
    }
}

const struct config *snapshot_config(const struct snapshot *s)
{
    return s->config;
}
