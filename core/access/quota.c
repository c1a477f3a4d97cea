/* SPDX-License-Identifier: MIT */
/* Quotas by the clock's minutes, hours and days in UTC: simple to explain, to keep and to say when they end. */
#include "config.h"

#include "access/internal.h"

#include "base/err.h"

#define SECOND INT64_C(1000000000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

static int quota_full(const struct slot *k, const char *what, int64_t most, const char *per, int64_t now_ns,
                      int64_t length, struct claas_error *err)
{
    int rc = err_set(err, CLAAS_ERR_EXHAUSTED, what, "the key '%s' has used up its quota of %lld %s %s", k->key.id,
                     (long long)most, what, per);
    if (err) {
        err->retry_after_ms = (uint32_t)((length - now_ns % length) / 1000000);
    }
    return rc;
}

int quota_request(struct slot *k, int64_t now_ns, struct claas_error *err)
{
    if (k->minute != now_ns / MINUTE) {
        k->minute = now_ns / MINUTE;
        k->minute_requests = 0;
    }
    if (k->key.requests_a_minute > 0 && k->minute_requests >= k->key.requests_a_minute) {
        return quota_full(k, "requests", k->key.requests_a_minute, "a minute", now_ns, MINUTE, err);
    }
    if (k->key.bytes_a_day > 0 && k->key.use.day == now_ns / DAY && k->key.use.day_bytes >= k->key.bytes_a_day) {
        return quota_full(k, "bytes", k->key.bytes_a_day, "a day", now_ns, DAY, err);
    }
    k->minute_requests++;
    k->key.use.used_ns = now_ns;
    k->dirty = 1;
    return 0;
}

int quota_step(struct slot *k, int64_t now_ns, struct claas_error *err)
{
    struct state_key_use *u = &k->key.use;
    if (u->hour != now_ns / HOUR) {
        u->hour = now_ns / HOUR;
        u->hour_steps = 0;
    }
    if (k->key.steps_an_hour > 0 && u->hour_steps >= k->key.steps_an_hour) {
        return quota_full(k, "steps", k->key.steps_an_hour, "an hour", now_ns, HOUR, err);
    }
    u->hour_steps++;
    k->dirty = 1;
    return 0;
}

void quota_bytes(struct slot *k, int64_t now_ns, uint64_t bytes)
{
    struct state_key_use *u = &k->key.use;
    if (u->day != now_ns / DAY) {
        u->day = now_ns / DAY;
        u->day_bytes = 0;
    }
    int64_t room = INT64_MAX - u->day_bytes;
    u->day_bytes += bytes > (uint64_t)room ? room : (int64_t)bytes;
    k->dirty = 1;
}
