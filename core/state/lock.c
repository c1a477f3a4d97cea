/* SPDX-License-Identifier: MIT */
/* One process at a time works in a state directory. */
#include "config.h"

#include "state/state.h"

#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

/* Who holds it, as it wrote: only for people, since a number may be gone or somebody else's by now. */
static long lock_holder(int fd)
{
    char text[32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return strtol(text, NULL, 10);
}

static int lock_refuse(const char *dir, int fd, struct claas_error *err)
{
    long pid = lock_holder(fd);
    if (pid <= 0) {
        return err_set(err, CLAAS_ERR_CONFLICT, "state_dir",
                       "cannot use state directory '%s': another claas process has it", dir);
    }
    return err_set(err, CLAAS_ERR_CONFLICT, "state_dir",
                   "cannot use state directory '%s': another claas process has it, pid %ld", dir, pid);
}

int state_lock(const char *dir, int *out_fd, struct claas_error *err)
{
    char text[32];
    char *path = path_join(dir, "state.lock");
    if (path == NULL) {
        return err_oom(err, "the lock of the state directory");
    }
    int rc = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        rc = err_errno(err, errno, "state_dir", "cannot open '%s'", path);
    } else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK ? lock_refuse(dir, fd, err)
                                  : err_errno(err, errno, "state_dir", "cannot lock '%s'", path);
    } else {
        int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
        /* The lock holds also where the disk is too full to say whose it is. */
        (void)!(ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) == n);
    }
    free(path);
    if (rc && fd >= 0) {
        (void)close(fd); /* nothing was written to it */
    }
    if (rc == 0) {
        *out_fd = fd;
    }
    return rc;
}
