/* SPDX-License-Identifier: MIT */
/* When the daemons are killed: after a drawn time, or when a drawn number of files of one kind has appeared, or when a job
 * is in a phase. */
#include "config.h"

#include "crash.h"

#include "base/clock.h"
#include "base/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum { WATCHES = 400, LATE_US = 20000 };

struct moment { /* of one daemon */
    struct host *host;
    enum moment_kind kind;
    const char *dir;       /* what is watched, below the store; null: the journal */
    int nth;               /* which of the events counts */
    uint64_t then_us;      /* and how long after it */
    int64_t at_ns;         /* no later than this */
    int fd;
    char *watched[WATCHES]; /* by watch descriptor */
    int over;
};

/* ---- watching ---- */

static void watch(struct moment *m, const char *path, int recursive)
{
    uint32_t mask = IN_CREATE | IN_MOVED_TO | (m->kind == MOMENT_JOURNAL ? IN_MODIFY : 0);
    int wd = inotify_add_watch(m->fd, path, mask);
    if (wd < 0 || wd >= WATCHES || m->watched[wd]) {
        return; /* not there yet, or one too many: the time limit counts */
    }
    m->watched[wd] = strdup(path);
    DIR *d = recursive ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        char below[600];
        if (e->d_type == DT_DIR && e->d_name[0] != '.') {
            (void)snprintf(below, sizeof below, "%s/%s", path, e->d_name);
            watch(m, below, 1);
        }
    }
    if (d) {
        (void)closedir(d);
    }
}

static void watch_begin(struct moment *m)
{
    char path[400];
    if (m->kind == MOMENT_JOURNAL) {
        (void)snprintf(path, sizeof path, "%s/state", m->host->dir);
    } else {
        (void)snprintf(path, sizeof path, "%s/%s", m->host->world->store, m->dir);
    }
    m->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (m->fd < 0) {
        trial_fail(m->host->world, "cannot watch files: %s", strerror(errno));
    }
    watch(m, path, 1);
}

/* Counts what has happened; 1: this is it. */
static int watch_read(struct moment *m)
{
    char events[16384] __attribute__((aligned(8)));
    ssize_t n;
    while (!m->over && (n = read(m->fd, events, sizeof events)) > 0) {
        const struct inotify_event *e;
        for (const char *at = events; at < events + n; at += sizeof *e + e->len) {
            e = (const struct inotify_event *)(const void *)at;
            char path[700];
            if (e->mask & IN_ISDIR && e->len && e->wd > 0 && e->wd < WATCHES && m->watched[e->wd]) {
                (void)snprintf(path, sizeof path, "%s/%s", m->watched[e->wd], e->name);
                watch(m, path, 1);
                if (m->kind != MOMENT_SPOOL) {
                    continue;
                }
            }
            if (m->kind == MOMENT_JOURNAL && !(e->len && strstr(e->name, "-wal"))) {
                continue;
            }
            m->nth--;
        }
        if (m->nth <= 0) {
            return 1;
        }
    }
    return 0;
}

/* 1: some job is in the phase. */
static int phase_seen(struct asker *a, enum moment_kind kind)
{
    const char *wanted = kind == MOMENT_DISTILL ? "distill" : "save";
    cJSON *o = NULL;
    int seen = 0;
    if (asker_ask(a, "GET", "/v1/jobs?limit=4", NULL, NULL, &o) == 200) {
        const cJSON *job;
        cJSON_ArrayForEach(job, json_get(o, "jobs"))
        {
            const char *phase = cJSON_GetStringValue(json_get(job, "phase"));
            seen |= !json_get(job, "ended") && phase && strcmp(phase, wanted) == 0;
        }
    }
    cJSON_Delete(o);
    return seen;
}

/* ---- drawing ---- */

static void moment_draw(struct moment *m, struct host *h)
{
    static const struct {
        const char *dir;
        unsigned most; /* events that are worth waiting for */
    } kinds[MOMENTS] = {
        [MOMENT_JOURNAL] = { NULL, 30 }, [MOMENT_SPOOL] = { "+spool", 12 }, [MOMENT_TEMP] = { "+tmp", 24 },
        [MOMENT_BLOB] = { "blobs", 12 }, [MOMENT_ENTRY] = { "log", 5 },
    };
    struct world *w = h->world;
    uint64_t span = 1000 * (uint64_t)atomic_load(&w->tally->work_ms) + 1000;
    *m = (struct moment){ .host = h, .fd = -1 };
    m->kind = trial_draw(w, 3) == 0 ? MOMENT_TIME : (enum moment_kind)(MOMENT_TIME + trial_draw(w, MOMENT_START));
    m->dir = kinds[m->kind].dir;
    m->nth = 1 + (int)(kinds[m->kind].most ? trial_draw(w, kinds[m->kind].most) : 0);
    m->then_us = trial_draw(w, 2) ? trial_draw(w, 3000) : 0;
    uint64_t after_us = m->kind == MOMENT_TIME ? trial_draw(w, span) : 3 * span;
    m->at_ns = clock_mono_ns() + (int64_t)after_us * 1000;
    if (m->kind != MOMENT_TIME && m->kind != MOMENT_DISTILL && m->kind != MOMENT_SAVE) {
        watch_begin(m);
    }
}

static void moment_clear(struct moment *m)
{
    for (int i = 0; i < WATCHES; i++) {
        free(m->watched[i]);
    }
    if (m->fd >= 0) {
        (void)close(m->fd);
    }
}

/* ---- killing ---- */

static void moment_take(struct moment *m, int has_come)
{
    struct tally *t = m->host->world->tally;
    if (has_come && m->then_us) {
        trial_sleep_us(m->then_us);
    }
    host_kill(m->host);
    (void)atomic_fetch_add(has_come ? &t->kills[m->kind] : &t->late, 1);
    m->over = 1;
}

static int has_come(struct moment *m, struct asker *a)
{
    if (m->kind == MOMENT_TIME) {
        return clock_mono_ns() >= m->at_ns;
    }
    return m->fd >= 0 ? watch_read(m) : phase_seen(a, m->kind);
}

static void moments_wait(struct moment *m, int n)
{
    struct pollfd p[HOSTS];
    struct timespec wait = { 0, 500000 };
    for (int i = 0; i < n; i++) {
        p[i] = (struct pollfd){ .fd = m[i].over ? -1 : m[i].fd, .events = POLLIN };
    }
    (void)ppoll(p, (nfds_t)n, &wait, NULL);
}

void moment_kill(struct world *w, struct workers *const *workers)
{
    struct moment m[HOSTS];
    struct asker *askers[HOSTS];
    int64_t idle_ns[HOSTS] = { 0 };
    int left = w->n_hosts;
    for (int i = 0; i < w->n_hosts; i++) {
        moment_draw(&m[i], &w->hosts[i]);
        askers[i] = asker_new(&w->hosts[i]);
    }
    while (left > 0) {
        for (int i = 0; i < w->n_hosts; i++) {
            int64_t now = clock_mono_ns();
            if (m[i].over) {
                continue;
            }
            if (work_done(workers[i]) && !idle_ns[i]) {
                idle_ns[i] = now + LATE_US * INT64_C(1000); /* jobs nobody waits for may go on */
            }
            int came = has_come(&m[i], askers[i]);
            if (came || now >= m[i].at_ns || (idle_ns[i] && now >= idle_ns[i] && m[i].kind != MOMENT_TIME)) {
                moment_take(&m[i], came);
                left--;
            }
        }
        moments_wait(m, w->n_hosts);
    }
    for (int i = 0; i < w->n_hosts; i++) {
        moment_clear(&m[i]);
        asker_free(askers[i]);
    }
}

void moment_kill_starts(struct world *w)
{
    uint64_t span = 1500 * (uint64_t)atomic_load(&w->tally->start_ms) + 1000;
    uint64_t times = trial_draw(w, 3);
    for (uint64_t t = 0; t < times; t++) {
        for (int i = 0; i < w->n_hosts; i++) {
            host_start(&w->hosts[i]);
        }
        for (int i = 0; i < w->n_hosts; i++) {
            trial_sleep_us(trial_draw(w, span) / (uint64_t)w->n_hosts);
            host_kill(&w->hosts[i]);
            (void)atomic_fetch_add(&w->tally->kills[MOMENT_START], 1);
        }
    }
}
