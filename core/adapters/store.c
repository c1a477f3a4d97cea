/* SPDX-License-Identifier: MIT */
/* The repository's way to its store: small objects through memory files, blobs through files, the
 * store's clock. */
#include "config.h"

#include "internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOB_TRIES = 3 };
#define CLOCK_KEY "lease/~clock" /* no id begins with '~' */
#define CLOCK_VALID_NS (INT64_C(600) * 1000000000)

static int memory_file(struct claas_error *err)
{
    int fd = memfd_create("claas-object", MFD_CLOEXEC);
    if (fd < 0) {
        (void)err_errno(err, errno, NULL, "cannot make a memory file");
    }
    return fd;
}

int store_read(struct adapters *a, const char *key, size_t limit, struct buf *out,
               const struct claas_call *call, struct claas_error *err)
{
    int fd = memory_file(err);
    if (fd < 0) {
        return CLAAS_ERR_EXHAUSTED;
    }
    struct claas_object object = { .size = sizeof object };
    int rc = host_storage_get(a->storage, key, 0, limit + 1, fd, &object, call, err);
    if (rc == 0 && object.bytes > limit) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, key,
                     "the object '%s' is larger than the %zu bytes it may have", key, limit);
    }
    size_t n = (size_t)object.bytes;
    char *room = rc == 0 ? buf_room(out, n + 1) : NULL;
    if (rc == 0 && !room) {
        rc = err_oom(err, "reading an object");
    }
    if (rc == 0) {
        rc = fd_pread_all(fd, room, n, 0, key, err);
    }
    if (rc == 0) {
        room[n] = '\0';
        out->len += n;
    }
    (void)close(fd); /* memory */
    return rc;
}

int store_write(struct adapters *a, const char *key, const void *data, size_t n, uint32_t flags,
                const struct claas_call *call, struct claas_error *err)
{
    int fd = memory_file(err);
    if (fd < 0) {
        return CLAAS_ERR_EXHAUSTED;
    }
    int rc = fd_pwrite_all(fd, data, n, 0, "a memory file", err);
    if (rc == 0) {
        struct claas_put put = { .size = sizeof put, .flags = flags, .bytes = n, .fd = fd };
        rc = host_storage_put(a->storage, key, &put, call, err);
    }
    (void)close(fd); /* memory */
    return rc;
}

int store_remove(struct adapters *a, const char *key, const struct claas_call *call,
                 struct claas_error *err)
{
    return host_storage_remove(a->storage, &key, 1, call, err);
}

int store_write_id(struct adapters *a, const char *key, const char *id, uint32_t flags,
                   const struct claas_call *call, struct claas_error *err)
{
    struct buf b = BUF_INIT;
    buf_addf(&b, "{\"id\":\"%s\"}\n", id); /* an id needs no escapes */
    int rc = b.failed ? err_oom(err, "writing an object")
                      : store_write(a, key, b.data, b.len, flags, call, err);
    buf_clear(&b);
    return rc;
}

int store_read_id(struct adapters *a, const char *key, char out[ADAPTER_ID_CAP],
                  const struct claas_call *call, struct claas_error *err)
{
    struct buf b = BUF_INIT;
    cJSON *json = NULL;
    const char *id = NULL;
    int rc = store_read(a, key, SMALL_BYTES_MAX, &b, call, err);
    if (rc == 0 && (json_parse(b.data, b.len, key, &json, NULL) ||
                    json_get_text(json, "id", &id, NULL) || !id || adapter_id_check(id, NULL))) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, key, "the object '%s' does not name an adapter", key);
    }
    if (rc == 0) {
        memcpy(out, id, strlen(id) + 1);
    }
    cJSON_Delete(json);
    buf_clear(&b);
    return rc;
}

int store_now(struct adapters *a, int64_t *out_ns, const struct claas_call *call,
              struct claas_error *err)
{
    int64_t mono = clock_mono_ns();
    (void)pthread_mutex_lock(&a->lock);
    int known = a->clock_read_ns != 0 && mono - a->clock_read_ns < CLOCK_VALID_NS;
    int64_t offset = a->clock_offset_ns;
    (void)pthread_mutex_unlock(&a->lock);
    if (!known) {
        struct claas_object object = { .size = sizeof object };
        int rc = store_write(a, CLOCK_KEY, "{}\n", 3, 0, call, err);
        int64_t real = clock_real_ns();
        if (rc == 0) {
            rc = host_storage_head(a->storage, CLOCK_KEY, &object, call, err);
        }
        if (rc) {
            return rc;
        }
        offset = object.modified_ns - real;
        (void)pthread_mutex_lock(&a->lock);
        a->clock_offset_ns = offset;
        a->clock_read_ns = mono;
        (void)pthread_mutex_unlock(&a->lock);
    }
    *out_ns = clock_real_ns() + offset;
    return 0;
}

int store_lock(struct adapters *a, int how, int *out_fd, struct claas_error *err)
{
    *out_fd = -1;
    if (!a->lock_path) {
        return 0;
    }
    int fd = open(a->lock_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, REPO_KEY, "cannot open '%s' to lock it", a->lock_path);
    }
    int failed = 0;
    while (flock(fd, how) && (failed = errno) == EINTR) {
        failed = 0;
    }
    if (failed) {
        (void)close(fd); /* opened for reading: nothing can be lost */
        return err_errno(err, failed, REPO_KEY, "cannot lock '%s'", a->lock_path);
    }
    *out_fd = fd;
    return 0;
}

void store_unlock(int fd)
{
    if (fd >= 0) {
        (void)close(fd);
    }
}

static int blob_put(struct adapters *a, const char *key, const struct claas_put *put,
                    const struct claas_call *call, struct claas_error *err)
{
    int lock = -1;
    int rc = store_lock(a, LOCK_SH, &lock, err);
    if (rc == 0) {
        rc = host_storage_put(a->storage, key, put, call, err);
    }
    store_unlock(lock);
    return rc;
}

int store_put_blob(struct adapters *a, const struct claas_digest *sha256, const char *path,
                   uint64_t bytes, const struct claas_call *call, struct claas_error *err)
{
    char key[KEY_CAP];
    key_blob(key, sha256);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, key, "cannot open '%s' to store it as '%s'", path, key);
    }
    struct claas_put put = {
        .size = sizeof put, .bytes = bytes, .fd = fd, .path = path, .sha256 = sha256
    };
    struct claas_error local = ERR_INIT;
    int rc = 0;
    for (int tries = 0; tries < BLOB_TRIES; tries++) {
        rc = blob_put(a, key, &put, call, &local);
        if (rc == 0 || !(local.flags & CLAAS_MAYBE)) {
            break;
        }
    }
    (void)close(fd); /* opened for reading: nothing can be lost */
    if (rc && err) {
        *err = local;
    }
    return rc;
}

/* A blob that has no local file is fetched to be sent again. */
static int blob_resend(struct adapters *a, const struct claas_file *file, const char *key,
                       const struct claas_call *call, struct claas_error *err)
{
    char *path = work_path(a, "again");
    if (!path) {
        return err_oom(err, "keeping a blob");
    }
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = fd < 0 ? err_errno(err, errno, NULL, "cannot create '%s'", path) : 0;
    if (rc == 0) {
        rc = host_storage_get(a->storage, key, 0, file->bytes, fd, NULL, call, err);
    }
    struct claas_digest found;
    if (rc == 0) {
        rc = sha256_of_fd(fd, file->bytes, &found, err);
    }
    if (rc == 0 && !sha256_equal(&found, &file->sha256)) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, key, "the blob '%s' does not match its digest", key);
    }
    if (rc == 0) {
        rc = store_put_blob(a, &file->sha256, path, file->bytes, call, err);
    }
    if (fd >= 0) {
        (void)close(fd);
        (void)unlink(path); /* the private directory goes in any case */
    }
    free(path);
    return rc;
}

int store_keep_blob(struct adapters *a, const struct claas_file *file, int cheap,
                    const struct claas_call *call, struct claas_error *err)
{
    char key[KEY_CAP];
    char path[PATH_MAX];
    int64_t now = 0;
    struct claas_object object = { .size = sizeof object };
    key_blob(key, &file->sha256);
    int rc = host_storage_head(a->storage, key, &object, call, err);
    if (rc == 0) {
        rc = store_now(a, &now, call, err);
    }
    if (rc) {
        return rc;
    }
    if (object.bytes != file->bytes) {
        return err_set(err, CLAAS_ERR_CORRUPT, key, "the blob '%s' has %llu bytes instead of %llu",
                       key, (unsigned long long)object.bytes, (unsigned long long)file->bytes);
    }
    if (now - object.modified_ns < a->options.grace_ns / 2) {
        return 0;
    }
    struct claas_error local = ERR_INIT;
    rc = host_storage_path(a->storage, key, path, sizeof path, &local);
    if (rc == 0) {
        return store_put_blob(a, &file->sha256, path, file->bytes, call, err);
    }
    if (rc != CLAAS_ERR_UNSUPPORTED) {
        if (err) {
            *err = local;
        }
        return rc;
    }
    if (cheap) {
        return err_set(err, CLAAS_ERR_NOT_FOUND, key, "the blob '%s' is too old to be relied on",
                       key);
    }
    return blob_resend(a, file, key, call, err);
}
