/* SPDX-License-Identifier: MIT */
/* Directories of a store: opened below the root and never through a link, made durably, removed
 * when empty. */
#include "config.h"

#include "fs.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DIR_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };
/* A directory older than this was written back by the kernel long ago, whoever made it. */
#define DIR_SETTLED_NS (INT64_C(300) * 1000000000)

/* One system call where the kernel has it; ENOSYS says to walk. */
static int dir_open_beneath(int root_fd, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    for (;;) {
        long fd = syscall(SYS_openat2, root_fd, path, &how, sizeof how);
        if (fd >= 0) {
            return (int)fd;
        }
        if (errno == EAGAIN || errno == EINTR) {
            continue;
        }
        if (errno == EPERM) {
            errno = ENOSYS; /* a filter of system calls that does not know it */
        }
        return -1;
    }
}

/* Syncs `parent` unless the entry of `fd` in it is old enough to be on disk in any case. */
static int dir_sync_young(int parent, int fd)
{
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) == 0 && (sx.stx_mask & STATX_BTIME) &&
        clock_real_ns() - ((int64_t)sx.stx_btime.tv_sec * 1000000000 + sx.stx_btime.tv_nsec) >
            DIR_SETTLED_NS) {
        return 0;
    }
    return fsync(parent);
}

static int dir_step(const struct fs *fs, int at, const char *name, int make)
{
    int made = make && mkdirat(at, name, 0750) == 0;
    if (make && !made && errno != EEXIST) {
        return -1;
    }
    int fd = openat(at, name, DIR_FLAGS);
    if (fd < 0) {
        struct stat st;
        int saved = errno;
        if (saved == ENOTDIR && fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISLNK(st.st_mode)) {
            saved = ELOOP; /* O_DIRECTORY wins over O_NOFOLLOW in what the kernel reports */
        }
        errno = saved;
        return -1;
    }
    if (make && fs->sync && dir_sync_young(at, fd)) {
        int saved = errno;
        (void)close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static int dir_walk(const struct fs *fs, char *path, int make)
{
    int at = openat(fs->root_fd, ".", DIR_FLAGS);
    char *rest = path;
    char *name;
    while (at >= 0 && (name = strsep(&rest, "/"))) {
        int next = dir_step(fs, at, name, make);
        int saved = errno;
        (void)close(at); /* a directory: nothing can be lost */
        errno = saved;
        at = next;
    }
    return at;
}

int fs_dir_open(const struct fs *fs, const char *key, size_t n, int make)
{
    if (n == 0) {
        return openat(fs->root_fd, ".", DIR_FLAGS); /* with a position of its own */
    }
    char path[FS_KEY_MAX + 1];
    if (n > FS_KEY_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(path, key, n);
    path[n] = '\0';
    if (!make) {
        int fd = dir_open_beneath(fs->root_fd, path);
        if (fd >= 0 || errno != ENOSYS) {
            return fd;
        }
    }
    return dir_walk(fs, path, make);
}

void fs_dir_prune(const struct fs *fs, const char *key)
{
    char path[FS_KEY_MAX + 1];
    size_t n = fs_key_dir(key);
    memcpy(path, key, n);
    path[n] = '\0';
    while (n > 0) {
        size_t up = fs_key_dir(path);
        int fd = fs_dir_open(fs, path, up, 0);
        /* Only an empty one goes; a put that meanwhile lost its directory makes it again. */
        int gone = fd >= 0 && unlinkat(fd, fs_key_leaf(path), AT_REMOVEDIR) == 0;
        if (fd >= 0) {
            (void)close(fd);
        }
        if (!gone) {
            return;
        }
        path[up] = '\0';
        n = up;
    }
}

int fs_error(const struct fs *fs, int errnum, const char *verb, const char *key,
             struct claas_error *err)
{
    switch (errnum) {
    case ENOENT:
        return err_set(err, CLAAS_ERR_NOT_FOUND, key,
                       "cannot %s '%s': there is no such object in '%s'", verb, key, fs->root);
    case ELOOP:
        return err_set(err, CLAAS_ERR_FORBIDDEN, key,
                       "cannot %s '%s' in '%s': a symbolic link is in the way", verb, key,
                       fs->root);
    case ENOTDIR:
    case EISDIR:
        return err_set(
            err, CLAAS_ERR_INVALID, key,
            "cannot %s '%s' in '%s': a key cannot be an object and the beginning of others", verb,
            key, fs->root);
    default:
        return err_errno(err, errnum, key, "cannot %s '%s' in '%s'", verb, key, fs->root);
    }
}
