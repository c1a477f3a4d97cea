/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t clock_read(clockid_t id)
{
    struct timespec ts;
    (void)clock_gettime(id, &ts); /* both clocks exist on every system we run on */
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t clock_mono_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

int64_t clock_real_ns(void)
{
    return clock_read(CLOCK_REALTIME);
}

void clock_format(int64_t real_ns, char out[CLOCK_TEXT])
{
    int64_t sec = real_ns / 1000000000;
    int64_t ms = real_ns % 1000000000 / 1000000;
    if (ms < 0) {
        ms += 1000;
        sec -= 1;
    }
    time_t t = (time_t)sec;
    struct tm tm;
    char day[24] = "1970-01-01T00:00:00";
    if (gmtime_r(&t, &tm)) {
        (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    }
    (void)snprintf(out, CLOCK_TEXT, "%s.%03dZ", day, (int)ms);
}
