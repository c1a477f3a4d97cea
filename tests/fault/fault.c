/* SPDX-License-Identifier: MIT */
/* Wrappers that count and fail. Their originals are looked up by the dynamic linker; what is allocated before that comes
 * from a small block of our own. Compiled without sanitizers, which start later than the first malloc does. */
#define _GNU_SOURCE 1
#include "fault.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static atomic_int armed = -1; /* enum fault_kind, -1: none */
static atomic_long counted;
static long failing;
static enum fault_mode failing_mode;
static int fast_sync;

void fault_arm(enum fault_kind kind, long n, enum fault_mode mode)
{
    failing = n;
    failing_mode = mode;
    atomic_store(&counted, 0);
    atomic_store(&armed, (int)kind);
}

long fault_disarm(void)
{
    atomic_store(&armed, -1);
    return atomic_load(&counted);
}

void fault_fast_sync(int fast)
{
    fast_sync = fast;
}

/* 1 with errno set if this call is one that fails. */
static int is_failing(enum fault_kind kind, int number)
{
    if (atomic_load(&armed) != (int)kind) {
        return 0;
    }
    long at = atomic_fetch_add(&counted, 1) + 1;
    if (failing == 0 || at < failing || (at > failing && failing_mode == FAULT_ONCE)) {
        return 0;
    }
    errno = number;
    return 1;
}

/* The original of `name`, of the type of the variable it is kept in. */
#define ORIGINAL(type, name, ...) \
    static type (*original)(__VA_ARGS__); \
    if (!original) { \
        *(void **)&original = dlsym(RTLD_NEXT, name); \
    }

/* ---- memory ---- */

static _Alignas(64) char early[1 << 16];
static size_t early_used;
static __thread int looking; /* dlsym allocates itself */

static void *early_take(size_t n)
{
    void *p = early + early_used;
    early_used += (n + 63) / 64 * 64;
    return early_used <= sizeof early ? p : NULL; /* never given out twice, so it is zeros */
}

static int is_early(const void *p)
{
    return (const char *)p >= early && (const char *)p < early + sizeof early;
}

static void *(*next_malloc)(size_t), *(*next_calloc)(size_t, size_t), *(*next_realloc)(void *, size_t);
static void *(*next_memalign)(size_t, size_t);
static int (*next_posix_memalign)(void **, size_t, size_t);
static void (*next_free)(void *);

/* 1 when the originals are known. */
static int find_allocator(void)
{
    if (next_free) {
        return 1;
    }
    if (looking) {
        return 0;
    }
    looking = 1;
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_memalign = dlsym(RTLD_NEXT, "memalign");
    *(void **)&next_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    looking = 0;
    return next_free != NULL;
}

EXPORT void *malloc(size_t n)
{
    if (!find_allocator()) {
        return early_take(n);
    }
    return is_failing(FAULT_ALLOC, ENOMEM) ? NULL : next_malloc(n);
}

EXPORT void *calloc(size_t n, size_t size)
{
    if (!find_allocator()) {
        return early_take(n * size);
    }
    return is_failing(FAULT_ALLOC, ENOMEM) ? NULL : next_calloc(n, size);
}

EXPORT void *realloc(void *p, size_t n)
{
    if (is_early(p) || !find_allocator()) {
        void *q = malloc(n);
        if (q && p) {
            size_t left = (size_t)(early + sizeof early - (char *)p);
            memcpy(q, p, n < left ? n : left);
        }
        return q;
    }
    return is_failing(FAULT_ALLOC, ENOMEM) ? NULL : next_realloc(p, n);
}

EXPORT void *aligned_alloc(size_t alignment, size_t n)
{
    return !find_allocator() || is_failing(FAULT_ALLOC, ENOMEM) ? NULL : next_memalign(alignment, n);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t n)
{
    return !find_allocator() || is_failing(FAULT_ALLOC, ENOMEM) ? ENOMEM : next_posix_memalign(out, alignment, n);
}

EXPORT void free(void *p)
{
    if (p && !is_early(p) && find_allocator()) {
        next_free(p);
    }
}

/* ---- files ---- */

/* Logging is no part of what is tested. */
#define FAILS_ON(fd, kind, number) ((fd) > 2 && is_failing(kind, number))

EXPORT ssize_t write(int fd, const void *data, size_t n)
{
    ORIGINAL(ssize_t, "write", int, const void *, size_t)
    return FAILS_ON(fd, FAULT_WRITE, ENOSPC) ? -1 : original(fd, data, n);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    ORIGINAL(ssize_t, "pwrite", int, const void *, size_t, off_t)
    return FAILS_ON(fd, FAULT_WRITE, ENOSPC) ? -1 : original(fd, data, n, at);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    return pwrite(fd, data, n, at);
}

EXPORT ssize_t writev(int fd, const struct iovec *v, int n)
{
    ORIGINAL(ssize_t, "writev", int, const struct iovec *, int)
    return FAILS_ON(fd, FAULT_WRITE, ENOSPC) ? -1 : original(fd, v, n);
}

EXPORT int ftruncate(int fd, off_t n)
{
    ORIGINAL(int, "ftruncate", int, off_t)
    return FAILS_ON(fd, FAULT_WRITE, ENOSPC) ? -1 : original(fd, n);
}

EXPORT int ftruncate64(int fd, off64_t n)
{
    return ftruncate(fd, n);
}

EXPORT int fallocate(int fd, int mode, off_t from, off_t n)
{
    ORIGINAL(int, "fallocate", int, int, off_t, off_t)
    return FAILS_ON(fd, FAULT_WRITE, ENOSPC) ? -1 : original(fd, mode, from, n);
}

EXPORT int posix_fallocate(int fd, off_t from, off_t n)
{
    ORIGINAL(int, "posix_fallocate", int, off_t, off_t)
    return FAILS_ON(fd, FAULT_WRITE, ENOSPC) ? ENOSPC : original(fd, from, n);
}

EXPORT ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags)
{
    ORIGINAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned)
    return FAILS_ON(out, FAULT_WRITE, ENOSPC) ? -1 : original(in, in_at, out, out_at, n, flags);
}

EXPORT int fsync(int fd)
{
    ORIGINAL(int, "fsync", int)
    return is_failing(FAULT_SYNC, EIO) ? -1 : fast_sync ? 0 : original(fd);
}

EXPORT int fdatasync(int fd)
{
    ORIGINAL(int, "fdatasync", int)
    return is_failing(FAULT_SYNC, EIO) ? -1 : fast_sync ? 0 : original(fd);
}

EXPORT ssize_t read(int fd, void *out, size_t n)
{
    ORIGINAL(ssize_t, "read", int, void *, size_t)
    return is_failing(FAULT_READ, EIO) ? -1 : original(fd, out, n);
}

EXPORT ssize_t pread(int fd, void *out, size_t n, off_t at)
{
    ORIGINAL(ssize_t, "pread", int, void *, size_t, off_t)
    return is_failing(FAULT_READ, EIO) ? -1 : original(fd, out, n, at);
}

EXPORT ssize_t pread64(int fd, void *out, size_t n, off64_t at)
{
    return pread(fd, out, n, at);
}

/* ---- names ---- */

static int open_fails(int flags)
{
    return flags & (O_CREAT | __O_TMPFILE) ? is_failing(FAULT_CREATE, ENOSPC) : is_failing(FAULT_OPEN, EMFILE);
}

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
    ORIGINAL(int, "openat", int, const char *, int, ...)
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_fails(flags) ? -1 : original(dir, path, flags, mode);
}

EXPORT int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return openat(AT_FDCWD, path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return openat(AT_FDCWD, path, flags, mode);
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return openat(dir, path, flags, mode);
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    ORIGINAL(int, "mkdir", const char *, mode_t)
    return is_failing(FAULT_CREATE, ENOSPC) ? -1 : original(path, mode);
}

EXPORT int mkdirat(int dir, const char *path, mode_t mode)
{
    ORIGINAL(int, "mkdirat", int, const char *, mode_t)
    return is_failing(FAULT_CREATE, ENOSPC) ? -1 : original(dir, path, mode);
}

EXPORT int link(const char *from, const char *to)
{
    ORIGINAL(int, "link", const char *, const char *)
    return is_failing(FAULT_CREATE, ENOSPC) ? -1 : original(from, to);
}

EXPORT int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    ORIGINAL(int, "linkat", int, const char *, int, const char *, int)
    return is_failing(FAULT_CREATE, ENOSPC) ? -1 : original(from_dir, from, to_dir, to, flags);
}

EXPORT int rename(const char *from, const char *to)
{
    ORIGINAL(int, "rename", const char *, const char *)
    return is_failing(FAULT_CREATE, EIO) ? -1 : original(from, to);
}

EXPORT int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    ORIGINAL(int, "renameat", int, const char *, int, const char *)
    return is_failing(FAULT_CREATE, EIO) ? -1 : original(from_dir, from, to_dir, to);
}

EXPORT int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    ORIGINAL(int, "renameat2", int, const char *, int, const char *, unsigned)
    return is_failing(FAULT_CREATE, EIO) ? -1 : original(from_dir, from, to_dir, to, flags);
}

EXPORT int unlink(const char *path)
{
    ORIGINAL(int, "unlink", const char *)
    return is_failing(FAULT_REMOVE, EIO) ? -1 : original(path);
}

EXPORT int unlinkat(int dir, const char *path, int flags)
{
    ORIGINAL(int, "unlinkat", int, const char *, int)
    return is_failing(FAULT_REMOVE, EIO) ? -1 : original(dir, path, flags);
}

EXPORT int rmdir(const char *path)
{
    ORIGINAL(int, "rmdir", const char *)
    return is_failing(FAULT_REMOVE, EIO) ? -1 : original(path);
}

/* ---- threads ---- */

EXPORT int pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    ORIGINAL(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)
    return is_failing(FAULT_THREAD, EAGAIN) ? EAGAIN : original(out, attr, run, arg);
}
