/* SPDX-License-Identifier: MIT */
/* The probe: sixteen threads create the same key if it is absent. Only a file system on which
 * exactly one of them won, and on which the winner's bytes are what is read afterwards, is reported
 * as atomic. */
#include "config.h"

#include "fs.h"

#include "base/err.h"
#include "base/file.h"
#include "base/rng.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RACERS = 16 };

struct race {
    const struct fs *fs;
    char key[64];
    pthread_mutex_t lock; /* of go */
    pthread_cond_t change;
    enum { RACE_WAIT, RACE_GO, RACE_OFF } go;
};

struct racer {
    struct race *race;
    pthread_t thread;
    int fd; /* holds this racer's number as its one byte */
    int rc;
    struct claas_error err;
};

static void *racer_run(void *arg)
{
    struct racer *r = arg;
    struct claas_put put = {
        .size = sizeof put, .flags = CLAAS_IF_ABSENT, .bytes = 1, .fd = r->fd
    };
    (void)pthread_mutex_lock(&r->race->lock);
    while (r->race->go == RACE_WAIT) {
        (void)pthread_cond_wait(&r->race->change, &r->race->lock);
    }
    int off = r->race->go == RACE_OFF;
    (void)pthread_mutex_unlock(&r->race->lock);
    if (off) {
        return NULL;
    }
    /* not synced: whether one wins does not depend on it */
    r->rc = fs_put_object(r->race->fs, r->race->key, &put, 0, NULL, &r->err);
    return NULL;
}

static int racer_init(struct racer *r, struct race *race, int number, struct claas_error *err)
{
    char byte = (char)number;
    *r = (struct racer){ .race = race, .err = ERR_INIT };
    r->fd = memfd_create("claas-probe", MFD_CLOEXEC);
    if (r->fd < 0) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot probe '%s': no memory file",
                       race->fs->root);
    }
    return fd_pwrite_all(r->fd, &byte, 1, 0, "a memory file", err);
}

/* Runs them all, let go together; signals stay the host's matter. */
static int race_run(struct race *race, struct racer *racers, struct claas_error *err)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    int started = 0;
    while (started < RACERS &&
           pthread_create(&racers[started].thread, NULL, racer_run, &racers[started]) == 0) {
        started++;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_mutex_lock(&race->lock);
    race->go = started == RACERS ? RACE_GO : RACE_OFF;
    (void)pthread_cond_broadcast(&race->change);
    (void)pthread_mutex_unlock(&race->lock);
    for (int i = 0; i < started; i++) {
        (void)pthread_join(racers[i].thread, NULL);
    }
    if (started < RACERS) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot probe '%s': no more threads",
                       race->fs->root);
    }
    return 0;
}

/* 1 winner, all others told of the conflict, and the winner's byte is what is there. */
static int race_judge(const struct race *race, const struct racer *racers, int *out_atomic,
                      struct claas_error *err)
{
    int winner = -1;
    int winners = 0;
    for (int i = 0; i < RACERS; i++) {
        if (racers[i].rc == 0) {
            winner = i;
            winners++;
        } else if (racers[i].rc != CLAAS_ERR_CONFLICT) {
            if (err) {
                *err = racers[i].err;
            }
            return racers[i].rc;
        }
    }
    char byte = -1;
    if (winners == 1) {
        int fd = memfd_create("claas-probe", MFD_CLOEXEC);
        int rc = fd < 0 ? err_set(err, CLAAS_ERR_EXHAUSTED, NULL,
                                  "cannot probe '%s': no memory file", race->fs->root)
                        : fs_get((void *)(uintptr_t)race->fs, race->key, 0, 2, fd, NULL, NULL, err);
        if (rc == 0) {
            rc = fd_pread_all(fd, &byte, 1, 0, race->key, err);
        }
        if (fd >= 0) {
            (void)close(fd); /* memory */
        }
        if (rc) {
            return rc;
        }
    }
    *out_atomic = winners == 1 && byte == (char)winner;
    return 0;
}

int fs_probe(void *self, uint32_t *out_caps, const struct claas_call *call, struct claas_error *err)
{
    struct race race = {
        .fs = self,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .change = PTHREAD_COND_INITIALIZER,
    };
    struct racer racers[RACERS];
    char hex[25];
    int rc = fs_stop(call, "probe", err);
    if (rc == 0 && rng_hex(hex, sizeof hex - 1)) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot probe: no random numbers");
    }
    if (rc) {
        return rc;
    }
    (void)snprintf(race.key, sizeof race.key, "probe~%s", hex); /* fits */
    int made = 0;
    while (rc == 0 && made < RACERS) {
        rc = racer_init(&racers[made], &race, made, err);
        made++;
    }
    if (rc == 0) {
        rc = race_run(&race, racers, err);
    }
    int atomic = 0;
    if (rc == 0) {
        rc = race_judge(&race, racers, &atomic, err);
    }
    const char *key = race.key;
    (void)fs_remove(self, &key, 1, NULL,
                    NULL); /* a leftover of one byte under a name of its own harms nobody */
    for (int i = 0; i < made; i++) {
        if (racers[i].fd >= 0) {
            (void)close(racers[i].fd); /* memory */
        }
    }
    if (rc == 0) {
        *out_caps = atomic ? CLAAS_STORE_ATOMIC : 0;
    }
    return rc;
}
