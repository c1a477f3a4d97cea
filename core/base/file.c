/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/file.h"

#include "base/err.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd_read_to_end(int fd, size_t limit, struct buf *out, const char *path, struct claas_error *err)
{
    size_t start = out->len;
    for (;;) {
        char *room = buf_room(out, 65536);
        if (!room) {
            return err_oom(err, "reading a file");
        }
        ssize_t got = read(fd, room, 65536);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return err_errno(err, errno, path, "cannot read '%s'", path);
        }
        if (got == 0) {
            room[0] = '\0';
            return 0;
        }
        out->len += (size_t)got;
        if (out->len - start > limit) {
            return err_set(err, CLAAS_ERR_INVALID, path, "cannot read '%s': larger than the limit of %zu bytes",
                           path, limit);
        }
    }
}

int file_read(const char *path, size_t limit, struct buf *out, struct claas_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, path, "cannot open '%s'", path);
    }
    int rc = fd_read_to_end(fd, limit, out, path, err);
    (void)close(fd); /* opened for reading: nothing can be lost */
    return rc;
}

int fd_write_all(int fd, const void *data, size_t n, const char *name, struct claas_error *err)
{
    const char *at = data;
    while (n > 0) {
        ssize_t put = write(fd, at, n);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return err_errno(err, errno, name, "cannot write '%s'", name);
        }
        at += put;
        n -= (size_t)put;
    }
    return 0;
}

int fd_pread_all(int fd, void *data, size_t n, uint64_t from, const char *name, struct claas_error *err)
{
    char *at = data;
    while (n > 0) {
        ssize_t got = pread(fd, at, n, (off_t)from);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return err_errno(err, errno, name, "cannot read '%s'", name);
        }
        if (got == 0) {
            return err_set(err, CLAAS_ERR_CORRUPT, name, "cannot read '%s': it ends too early", name);
        }
        at += got;
        from += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

int fd_pwrite_all(int fd, const void *data, size_t n, uint64_t from, const char *name, struct claas_error *err)
{
    const char *at = data;
    while (n > 0) {
        ssize_t put = pwrite(fd, at, n, (off_t)from);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return err_errno(err, errno, name, "cannot write '%s'", name);
        }
        at += put;
        from += (uint64_t)put;
        n -= (size_t)put;
    }
    return 0;
}

/* Directory part of path on the heap: "." when there is none. */
static char *path_dir(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) {
        return mem_dup(".", 1);
    }
    return mem_dup(path, slash == path ? 1 : (size_t)(slash - path));
}

static int fd_fill_durable(int fd, const void *data, size_t n, mode_t mode, const char *path, struct claas_error *err)
{
    int rc = fd_write_all(fd, data, n, path, err);
    if (rc == 0 && (fchmod(fd, mode) || fsync(fd))) {
        rc = err_errno(err, errno, path, "cannot write '%s'", path);
    }
    return rc;
}

int file_write_durable(const char *path, const void *data, size_t n, mode_t mode, struct claas_error *err)
{
    struct buf tmp = BUF_INIT;
    buf_addf(&tmp, "%s.XXXXXX", path);
    char *dir = path_dir(path);
    if (tmp.failed || !dir) {
        buf_clear(&tmp);
        free(dir);
        return err_oom(err, "writing a file");
    }
    int rc = 0;
    int fd = mkostemp(tmp.data, O_CLOEXEC);
    if (fd < 0) {
        rc = err_errno(err, errno, path, "cannot create a file beside '%s'", path);
        goto out;
    }
    rc = fd_fill_durable(fd, data, n, mode, path, err);
    if (close(fd) && rc == 0) {
        rc = err_errno(err, errno, path, "cannot write '%s'", path);
    }
    if (rc == 0 && rename(tmp.data, path)) {
        rc = err_errno(err, errno, path, "cannot replace '%s'", path);
    }
    if (rc) {
        (void)unlink(tmp.data); /* the error already tells what matters */
        goto out;
    }
    rc = dir_sync(dir, err);
out:
    buf_clear(&tmp);
    free(dir);
    return rc;
}

int file_map_open(const char *path, struct file_map *out, struct claas_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, path, "cannot open '%s'", path);
    }
    struct stat st;
    int rc = 0;
    struct file_map map = { 0 };
    if (fstat(fd, &st)) {
        rc = err_errno(err, errno, path, "cannot open '%s'", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(err, CLAAS_ERR_INVALID, path, "cannot map '%s': not a regular file", path);
    } else if (st.st_size > 0) {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED) {
            rc = err_errno(err, errno, path, "cannot map '%s'", path);
        } else {
            map.data = at;
            map.bytes = (size_t)st.st_size;
        }
    }
    (void)close(fd); /* the map stays */
    if (rc == 0) {
        *out = map;
    }
    return rc;
}

void file_map_close(struct file_map *map)
{
    if (map && map->data) {
        (void)munmap((void *)(uintptr_t)map->data, map->bytes);
        *map = (struct file_map){ 0 };
    }
}

int dir_make(const char *path, mode_t mode, struct claas_error *err)
{
    char *copy = mem_dup(path, strlen(path));
    if (!copy) {
        return err_oom(err, "making a directory");
    }
    int rc = 0;
    for (char *p = copy + 1; rc == 0; p++) {
        if (*p != '/' && *p != '\0') {
            continue;
        }
        char end = *p;
        *p = '\0';
        if (mkdir(copy, mode) && errno != EEXIST) {
            rc = err_errno(err, errno, path, "cannot make the directory '%s'", copy);
        }
        *p = end;
        if (end == '\0') {
            break;
        }
    }
    free(copy);
    return rc;
}

int dir_sync(const char *path, struct claas_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, path, "cannot open the directory '%s'", path);
    }
    int rc = fsync(fd) ? err_errno(err, errno, path, "cannot sync the directory '%s'", path) : 0;
    (void)close(fd); /* nothing was written through it */
    return rc;
}

static int dir_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path) && errno != ENOENT ? -1 : 0;
}

int dir_remove(const char *path, struct claas_error *err)
{
    if (nftw(path, dir_remove_one, 16, FTW_DEPTH | FTW_PHYS) && errno != ENOENT) {
        return err_errno(err, errno, path, "cannot remove the directory '%s'", path);
    }
    return 0;
}

char *path_join(const char *dir, const char *name)
{
    struct buf b = BUF_INIT;
    size_t n = strlen(dir);
    buf_add(&b, dir, n);
    if (n > 0 && dir[n - 1] != '/') {
        buf_addc(&b, '/');
    }
    buf_adds(&b, name);
    return buf_take(&b);
}
