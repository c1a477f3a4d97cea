/* SPDX-License-Identifier: MIT */
/* Adapters kept in memory, so that a step goes on and an answer switches versions without reading a file. Found by the
 * digest of training state, by the digest of what answers depend on, or by the key of the step that made them. Holders
 * count; what nobody holds is dropped, least recently used first, when the bounds are passed. */
#ifndef LOCAL_WARM_H
#define LOCAL_WARM_H

#include "plugins/local/lora.h"
#include "plugins/local/optim.h"
#include "plugins/local/train.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct warm; /* all of them; safe from any thread */

/* One adapter. Its lora never changes while it is held; moments only through warm_moments. */
struct warm_adapter {
    struct lora *lora;
    struct optim *moments;         /* null: fresh, or not in memory */
    int has_moments;               /* moments belong to the state (they may have been dropped) */
    struct train_metrics *metrics; /* of the steps that made it, n_steps; null when it was read or created */
    size_t n_steps;
};

struct warm_keys {                 /* null where unknown; copied */
    const struct claas_digest *state;
    const struct claas_digest *serve;
    const struct claas_digest *key;
};

int warm_new(struct warm **out, struct claas_error *err);
void warm_free(struct warm *w);    /* null is fine; nobody holds anything */

/* Bounds on bytes and number of adapters, at once and from now on. All count, but what is held is never dropped. */
void warm_set_bounds(struct warm *w, uint64_t bytes, size_t count);

/* Takes *adapter over (its pointers are null afterwards) and hands out a hold. On an error it stays the caller's. */
int warm_put(struct warm *w, const struct warm_keys *keys, struct warm_adapter *adapter,
             const struct warm_adapter **out, struct claas_error *err);

/* A hold on the adapter, or null. state: only if its moments are in memory or it has none. */
const struct warm_adapter *warm_find_state(struct warm *w, const struct claas_digest *state);
const struct warm_adapter *warm_find_serve(struct warm *w, const struct claas_digest *serve);
const struct warm_adapter *warm_find_key(struct warm *w, const struct claas_digest *key);
void warm_release(struct warm *w, const struct warm_adapter *adapter); /* null is fine */

/* No request names it any more: it goes first, at once (or when its last holder lets go) unless training may go on from
 * it. */
void warm_unload(struct warm *w, const struct claas_digest *serve);

size_t warm_count(struct warm *w);
uint64_t warm_bytes(struct warm *w);

#endif
