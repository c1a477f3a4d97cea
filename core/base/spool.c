/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/spool.h"

#include "base/err.h"
#include "base/file.h"
#include "base/rng.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void spool_hold(int fd)
{
    while (flock(fd, LOCK_SH) && errno == EINTR) {
    }
}

/* One attempt: 0 and *out_fd >= 0 if made; *out_fd = -1 if a sweep took it before it was held. */
static int spool_make_once(const char *path, int *out_fd, struct claas_error *err)
{
    if (mkdir(path, 0700)) {
        return err_errno(err, errno, "spool", "cannot make the directory '%s'", path);
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        *out_fd = -1;
        return 0;
    }
    if (fd < 0) {
        int saved = errno;
        (void)rmdir(path); /* the error below tells what matters */
        return err_errno(err, saved, "spool", "cannot open the directory '%s'", path);
    }
    spool_hold(fd);
    struct stat st;
    if (stat(path, &st)) {
        (void)close(fd); /* nothing was written through it */
        fd = -1;
    }
    *out_fd = fd;
    return 0;
}

int spool_make(const char *parent, struct spool *out, struct claas_error *err)
{
    for (int tries = 0; tries < 100; tries++) {
        char name[25];
        if (rng_hex(name, sizeof name - 1)) {
            return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot draw a name: no random numbers");
        }
        char *path = path_join(parent, name);
        if (!path) {
            return err_oom(err, "making a directory");
        }
        int fd = -1;
        int rc = spool_make_once(path, &fd, err);
        if (rc == 0 && fd >= 0) {
            out->path = path;
            out->fd = fd;
            return 0;
        }
        free(path);
        if (rc) {
            return rc;
        }
    }
    return err_set(err, CLAAS_ERR_UNAVAILABLE, NULL,
                   "cannot keep a directory below '%s': it is removed again and again", parent);
}

void spool_drop(struct spool *s)
{
    if (!s || !s->path) {
        return;
    }
    (void)dir_remove(s->path, NULL); /* what stays is found by the next sweep */
    (void)close(s->fd);
    free(s->path);
    *s = (struct spool){ .fd = -1 };
}

static void spool_sweep_one(int parent_fd, const char *parent, const char *name)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    char *path = path_join(parent, name);
    if (path && flock(fd, LOCK_EX | LOCK_NB) == 0) {
        (void)dir_remove(path, NULL); /* files too; what stays is found by the next sweep */
    }
    free(path);
    (void)close(fd);
}

void spool_sweep(const char *parent)
{
    DIR *dir = opendir(parent);
    if (!dir) {
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            spool_sweep_one(dirfd(dir), parent, e->d_name);
        }
    }
    (void)closedir(dir);
}
