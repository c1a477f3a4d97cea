/* SPDX-License-Identifier: MIT */
/* Directories of work in progress that outlive no process: each is held by an advisory lock while
 * it is used, so whoever comes later can tell a dead process's leftovers from living work, on
 * whatever host it runs. */
#ifndef BASE_SPOOL_H
#define BASE_SPOOL_H

#include <claas/error.h>

struct spool {
    char *path; /* the directory, mode 0700 */
    int fd;     /* holds the lock */
};

/* Makes a fresh directory below `parent` (which must exist) and holds it. */
int spool_make(const char *parent, struct spool *out, struct claas_error *err);
/* Removes the directory with all below it and lets go; an empty struct (path null) is fine. */
void spool_drop(struct spool *s);

/* Takes the shared lock that keeps spool_sweep away from an open file or directory; may wait for a
 * sweep to pass. */
void spool_hold(int fd);
/* Removes every file and directory right below `parent` that nobody holds. What cannot be removed
 * stays. */
void spool_sweep(const char *parent);

#endif
