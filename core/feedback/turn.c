/* SPDX-License-Identifier: MIT */
/* Turns: one request at a time on an adapter, in the order of arrival; other adapters do not wait.
 * Where inference gives the device up, the device is a turn of its own: one step at a time. */
#include "config.h"

#include "feedback/internal.h"

#include "base/clock.h"
#include "base/err.h"

#include <string.h>

/* How often a waiting request looks whether its caller still wants it. */
enum { LOOK_MS = 200 };

static int is_first(const struct feedback *f, const struct turn *t)
{
    const struct turn *at = f->turns;
    while (at != t && strcmp(at->id, t->id) != 0) {
        at = at->next;
    }
    return at == t;
}

static void take_out(struct feedback *f, struct turn *t)
{
    struct turn **at = &f->turns;
    while (*at != t) {
        at = &(*at)->next;
    }
    *at = t->next;
    (void)pthread_cond_broadcast(&f->left);
}

static void wait_until(struct feedback *f, int64_t until)
{
    int64_t look = clock_mono_ns() + LOOK_MS * INT64_C(1000000);
    until = until < look ? until : look;
    struct timespec t = { .tv_sec = (time_t)(until / 1000000000),
                          .tv_nsec = (long)(until % 1000000000) };
    (void)pthread_cond_timedwait(&f->left, &f->mutex, &t); /* the caller looks again in any case */
}

static int too_late(const struct feedback *f, const char *id, struct claas_error *err)
{
    if (strcmp(id, TURN_DEVICE) == 0) {
        return err_set(err, CLAAS_ERR_CONFLICT, "lora_id",
                       "the device was not free within %u ms: steps on other adapters had it",
                       f->lock_timeout_ms);
    }
    return err_set(err, CLAAS_ERR_CONFLICT, "lora_id",
                   "cannot train '%s': other feedback on it was not done within %u ms", id,
                   f->lock_timeout_ms);
}

int turn_take(struct feedback *f, struct turn *t, const char *id, const struct claas_call *call,
              struct claas_error *err)
{
    int64_t until = clock_mono_ns() + (int64_t)f->lock_timeout_ms * 1000000;
    int rc = 0;
    *t = (struct turn){ .id = id };
    (void)pthread_mutex_lock(&f->mutex);
    struct turn **end = &f->turns;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = t;
    while (rc == 0 && !is_first(f, t)) {
        if (clock_mono_ns() >= until) {
            rc = too_late(f, id, err);
        } else if ((rc = host_call_check_abi(call, err)) == 0) {
            wait_until(f, until);
        } else {
            (void)err_prefix(err, "while other feedback was worked off");
        }
    }
    if (rc != 0) {
        take_out(f, t);
    }
    (void)pthread_mutex_unlock(&f->mutex);
    return rc;
}

void turn_leave(struct feedback *f, struct turn *t)
{
    (void)pthread_mutex_lock(&f->mutex);
    take_out(f, t);
    (void)pthread_mutex_unlock(&f->mutex);
}
