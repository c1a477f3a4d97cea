/* SPDX-License-Identifier: MIT */
/* The store's files, looked at without any code of the store's. */
#include "config.h"

#include "crash.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AGED_S = 2 * 3600, YOUNG_S = 60, PATIENCE_MS = 20000 };

/* Calls each(ctx, path, name) for what lies in dir; 0 when there is no such directory. */
static void each_in(const char *dir, void (*each)(void *ctx, const char *path, const char *name), void *ctx)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[700];
        if (e->d_name[0] != '.') {
            (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            each(ctx, path, e->d_name);
        }
    }
    if (d) {
        (void)closedir(d);
    }
}

static void age_one(void *ctx, const char *path, const char *name)
{
    const struct timespec *then = ctx;
    (void)name;
    (void)utimensat(AT_FDCWD, path, then, AT_SYMLINK_NOFOLLOW); /* it may have been swept meanwhile */
}

static void age_below(void *ctx, const char *path, const char *name)
{
    (void)name;
    each_in(path, age_one, ctx);
}

void store_age(const struct world *w)
{
    char blobs[400];
    struct timespec then[2];
    (void)clock_gettime(CLOCK_REALTIME, &then[0]);
    then[0].tv_sec -= AGED_S;
    then[1] = then[0];
    (void)snprintf(blobs, sizeof blobs, "%s/blobs", w->store);
    each_in(blobs, age_below, then);
}

void store_check_blob(const struct world *w, const char *hex)
{
    char path[500];
    char got[SHA256_HEX] = "";
    struct claas_digest d;
    struct stat st;
    struct claas_error err = ERR_INIT;
    (void)snprintf(path, sizeof path, "%s/blobs/%.2s/%s", w->store, hex, hex);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        trial_fail(w, "a version in use needs '%s': %s", path, strerror(errno));
    }
    if (sha256_of_fd(fd, (uint64_t)st.st_size, &d, &err)) {
        trial_fail(w, "%s", err.message);
    }
    (void)close(fd);
    sha256_hex(&d, got);
    if (strcmp(got, hex) != 0) {
        trial_fail(w, "'%s' has the digest %s", path, got);
    }
}

/* ---- leftovers ---- */

struct leftovers {
    char *const *needed;
    size_t n_needed;
    int64_t now_s;
    int spools; /* directories that may be there */
    unsigned n;
    char one[700];
};

static void leftover_add(struct leftovers *l, const char *path)
{
    l->n++;
    (void)snprintf(l->one, sizeof l->one, "%s", path);
}

static void blob_look(void *ctx, const char *path, const char *name)
{
    struct leftovers *l = ctx;
    struct stat st;
    for (size_t i = 0; i < l->n_needed; i++) {
        if (strcmp(l->needed[i], name) == 0) {
            return;
        }
    }
    if (stat(path, &st) == 0 && st.st_mtime < l->now_s - YOUNG_S) {
        leftover_add(l, path);
    }
}

static void shelf_look(void *ctx, const char *path, const char *name)
{
    (void)name;
    each_in(path, blob_look, ctx);
}

/* Each daemon has one directory there as long as it lives. */
static void spool_look(void *ctx, const char *path, const char *name)
{
    struct leftovers *l = ctx;
    (void)name;
    if (l->spools > 0) {
        l->spools--;
    } else {
        leftover_add(l, path);
    }
}

static void temporary_look(void *ctx, const char *path, const char *name)
{
    (void)name;
    leftover_add(ctx, path);
}

static void leftovers_find(const struct world *w, struct leftovers *l)
{
    char path[400];
    (void)snprintf(path, sizeof path, "%s/blobs", w->store);
    if (l->needed) {
        each_in(path, shelf_look, l);
    }
    (void)snprintf(path, sizeof path, "%s/+tmp", w->store);
    each_in(path, temporary_look, l);
    (void)snprintf(path, sizeof path, "%s/+spool", w->store);
    each_in(path, spool_look, l);
}

static int daemons_living(const struct world *w)
{
    int n = 0;
    for (int i = 0; i < w->n_hosts; i++) {
        n += w->hosts[i].pid > 0;
    }
    return n;
}

void store_check_clean(const struct world *w, char *const *needed, size_t n)
{
    int64_t until = clock_mono_ns() + PATIENCE_MS * INT64_C(1000000);
    for (;;) {
        struct leftovers l = { .needed = needed, .n_needed = n, .now_s = (int64_t)time(NULL),
                               .spools = daemons_living(w) };
        leftovers_find(w, &l);
        if (l.n == 0) {
            return;
        }
        if (clock_mono_ns() > until) {
            trial_fail(w, "%u leftovers after %d ms of sweeps, such as '%s'", l.n, PATIENCE_MS, l.one);
        }
        trial_sleep_us(20000);
    }
}

/* ---- the log ---- */

struct entries {
    const struct world *w;
    uint64_t n, most;
};

static void entry_look(void *ctx, const char *path, const char *name)
{
    struct entries *e = ctx;
    char *end = NULL;
    uint64_t n = strtoull(name, &end, 10);
    if (strlen(name) != 8 || *end || n == 0) {
        trial_fail(e->w, "'%s' is no log entry", path);
    }
    e->n++;
    e->most = n > e->most ? n : e->most;
}

void store_check_log(const struct world *w, const char *id, uint64_t head)
{
    struct entries e = { .w = w };
    char path[400];
    int n = snprintf(path, sizeof path, "%s/log/%s", w->store, id);
    for (char *at = path + strlen(w->store) + 5; at < path + n; at++) {
        *at = *at == '/' ? '~' : *at;
    }
    each_in(path, entry_look, &e);
    if (e.n != e.most || e.most != head) {
        trial_fail(w, "the log of '%s' has %llu entries up to %llu, and the daemon says %llu", id, (unsigned long long)e.n,
                   (unsigned long long)e.most, (unsigned long long)head);
    }
}
