/* SPDX-License-Identifier: MIT */
/* Files: whole reads with a limit, durable writes, maps, directories. Every descriptor is close-on-exec. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/buf.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Appends the whole file to *out; more than `limit` bytes is an error that names the limit. */
int file_read(const char *path, size_t limit, struct buf *out, struct claas_error *err);

/* Replaces path durably: temporary file beside it, write, fsync, rename, fsync of the directory. */
int file_write_durable(const char *path, const void *data, size_t n, mode_t mode, struct claas_error *err);

/* All of it, in spite of interruptions and short transfers. `name` is for the message. */
int fd_write_all(int fd, const void *data, size_t n, const char *name, struct claas_error *err);
int fd_pread_all(int fd, void *data, size_t n, uint64_t from, const char *name, struct claas_error *err);
int fd_pwrite_all(int fd, const void *data, size_t n, uint64_t from, const char *name, struct claas_error *err);

/* A read-only map of a whole regular file. An empty file gives data = null, bytes = 0. */
struct file_map {
    const uint8_t *data;
    size_t bytes;
};
int file_map_open(const char *path, struct file_map *out, struct claas_error *err);
void file_map_close(struct file_map *map);

/* mkdir -p with `mode` for what is made. */
int dir_make(const char *path, mode_t mode, struct claas_error *err);
int dir_sync(const char *path, struct claas_error *err);
/* Removes a directory and all below it, following no links; what is absent counts as removed. */
int dir_remove(const char *path, struct claas_error *err);

/* "dir/name" on the heap, null when out of memory. */
char *path_join(const char *dir, const char *name);

#endif
