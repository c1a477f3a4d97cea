/* SPDX-License-Identifier: MIT */
/* The configuration that counts, for many readers: a reload puts another in its place, and each request keeps the one it
 * began with until it ends. */
#ifndef SERVER_SNAPSHOT_H
#define SERVER_SNAPSHOT_H

#include "config/config.h"

#include <pthread.h>

struct snapshot;

struct snapshots {
    pthread_mutex_t lock;
    struct snapshot *now; /* under lock; null: none yet */
};

void snapshots_init(struct snapshots *all);
/* Gives the last one back. */
void snapshots_close(struct snapshots *all);
/* Makes config, taken over, the one that counts. On failure config stays the caller's. */
int snapshots_swap(struct snapshots *all, struct config *config, struct claas_error *err);
/* A reference to the one that counts; null before the first. */
struct snapshot *snapshot_take(struct snapshots *all);
/* Null is fine. */
void snapshot_drop(struct snapshot *s);
const struct config *snapshot_config(const struct snapshot *s);

#endif
