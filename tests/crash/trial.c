/* SPDX-License-Identifier: MIT */
/* One trial: rounds of work, kill, start, check; an orderly end. */
#include "config.h"

#include "crash.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/rng.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void trial_fail(const struct world *w, const char *format, ...)
{
    char text[4000];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "# seed %llu, round %u: %s\n# --seed %llu%s does it again; all of it is in %s\n",
            (unsigned long long)w->seed, w->round, text, (unsigned long long)w->seed, w->n_hosts > 1 ? " --pair" : "", w->dir);
    for (int i = 0; i < w->n_hosts; i++) {
        if (w->hosts[i].pid > 0) {
            (void)kill(w->hosts[i].pid, SIGKILL);
        }
    }
    _exit(1);
}

uint64_t trial_draw(struct world *w, uint64_t n)
{
    return rng_bits(w->seed, 0, w->drawn++) % n;
}

void trial_sleep_us(uint64_t us)
{
    struct timespec left = { (time_t)(us / 1000000), (long)(us % 1000000) * 1000 };
    while (nanosleep(&left, &left) && errno == EINTR) {
    }
}

static void start_all(struct world *w)
{
    for (int i = 0; i < w->n_hosts; i++) {
        if (w->hosts[i].pid == 0) {
            host_start(&w->hosts[i]);
        }
    }
    for (int i = 0; i < w->n_hosts; i++) {
        host_wait_ready(&w->hosts[i]);
    }
}

static void round_run(struct world *w)
{
    struct workers *workers[HOSTS] = { NULL };
    for (int i = 0; i < w->n_hosts; i++) {
        workers[i] = work_begin(&w->hosts[i]);
    }
    moment_kill(w, workers);
    for (int i = 0; i < w->n_hosts; i++) {
        work_end(workers[i]);
    }
    moment_kill_starts(w);
    if (trial_draw(w, 2)) {
        store_age(w);
    }
    start_all(w);
    check_all(w);
    (void)atomic_fetch_add(&w->tally->runs, 1);
}

/* How long a start and the clients' work take when nobody kills. */
static void measure(struct world *w)
{
    int64_t began = clock_mono_ns();
    start_all(w);
    int64_t ready = clock_mono_ns();
    struct workers *workers = work_begin(&w->hosts[0]);
    work_end(workers);
    atomic_store(&w->tally->start_ms, (unsigned)((ready - began) / 1000000));
    atomic_store(&w->tally->work_ms, (unsigned)((clock_mono_ns() - ready) / 1000000) + 1);
    check_all(w);
}

void trial_run(struct world *w)
{
    struct claas_error err = ERR_INIT;
    if (dir_make(w->dir, 0700, &err)) {
        trial_fail(w, "%s", err.message);
    }
    (void)snprintf(w->store, sizeof w->store, "%s/store", w->dir);
    for (int i = 0; i < w->n_hosts; i++) {
        w->hosts[i].world = w;
        w->hosts[i].number = i;
        host_prepare(&w->hosts[i]);
    }
    if (w->rounds == 0) {
        measure(w);
    } else {
        start_all(w);
    }
    for (w->round = 0; w->round < w->rounds; w->round++) {
        round_run(w);
    }
    for (int i = 0; i < w->n_hosts; i++) {
        host_stop(&w->hosts[i]);
    }
    store_check_clean(w, NULL, 0);
    if (dir_remove(w->dir, &err)) {
        trial_fail(w, "%s", err.message);
    }
}
