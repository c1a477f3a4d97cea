/* SPDX-License-Identifier: MIT */
/* Copies of the state database: before an update of its tables, as a backup, back from a backup. A copy is one file
 * without a journal beside it; it appears whole and durable under its name, or not at all. */
#include "config.h"

#include "state/db.h"

#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COPY_BUSY_MS = 5000 };

static int dir_of_sync(const char *file, struct claas_error *err)
{
    const char *slash = strrchr(file, '/');
    char *dir = slash == NULL ? strdup(".") : strndup(file, slash == file ? 1 : (size_t)(slash - file));
    int rc = dir == NULL ? err_oom(err, "a copy of the state database") : dir_sync(dir, err);
    free(dir);
    return rc;
}

/* The pages, in one read transaction: others may go on writing. */
static int pages_copy(struct state *s, sqlite3 *to, const char *file, struct claas_error *err)
{
    sqlite3_backup *b = sqlite3_backup_init(to, "main", s->db, "main");
    int rc = b == NULL ? sqlite3_errcode(to) : sqlite3_backup_step(b, -1);
    int end = b == NULL ? SQLITE_OK : sqlite3_backup_finish(b);
    if (b == NULL || rc != SQLITE_DONE || end != SQLITE_OK) {
        return err_set(err, (rc & 0xff) == SQLITE_FULL ? CLAAS_ERR_EXHAUSTED : CLAAS_ERR_INTERNAL, "file",
                       "cannot copy '%s' to '%s': %s", s->path, file, sqlite3_errstr(rc));
    }
    /* The mark that a journal belongs to it goes: a copy is one file. */
    return sqlite3_exec(to, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : err_set(err, CLAAS_ERR_INTERNAL, "file", "cannot finish '%s': %s", file, sqlite3_errmsg(to));
}

static int file_fresh(const char *file, struct claas_error *err)
{
    if (unlink(file) != 0 && errno != ENOENT) {
        return err_errno(err, errno, "file", "cannot remove '%s'", file);
    }
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_errno(err, errno, "file", "cannot make '%s'", file);
    }
    (void)close(fd); /* nothing was written */
    return 0;
}

static int file_publish(const char *from, const char *to, struct claas_error *err)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fsync(fd) != 0 || rename(from, to) != 0) {
        int rc = err_errno(err, errno, "file", "cannot write '%s'", to);
        if (fd >= 0) {
            (void)close(fd); /* only read */
        }
        return rc;
    }
    (void)close(fd); /* only read */
    return dir_of_sync(to, err);
}

int db_copy(struct state *s, const char *file, struct claas_error *err)
{
    sqlite3 *to = NULL;
    char *part = sqlite3_mprintf("%s.part", file);
    if (part == NULL) {
        return err_oom(err, "a copy of the state database");
    }
    int rc = file_fresh(part, err);
    int made = rc == 0;
    if (rc == 0 && sqlite3_open_v2(part, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, NULL) != SQLITE_OK) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "file", "cannot open '%s'", part);
    }
    if (rc == 0) {
        rc = pages_copy(s, to, file, err);
    }
    if (sqlite3_close(to) != SQLITE_OK && rc == 0) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "file", "cannot close '%s'", part);
    }
    if (rc == 0) {
        rc = file_publish(part, file, err);
    }
    if (rc != 0 && made) {
        (void)unlink(part); /* the error already tells what matters */
    }
    sqlite3_free(part);
    return rc;
}

/* ---- backup and restore ------------------------------------------------------------------------------------------------- */

static struct state *copy_new(const char *path)
{
    struct state *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    s->lock_fd = -1;
    s->path = strdup(path);
    if (s->path == NULL || pthread_mutex_init(&s->mutex, NULL) != 0) {
        free(s->path);
        free(s);
        return NULL;
    }
    return s;
}

/* Opens what is there; nothing is made or changed. */
static int copy_open(struct state *s, struct claas_error *err)
{
    if (access(s->path, R_OK) != 0) {
        return err_errno(err, errno, "file", "cannot read '%s'", s->path);
    }
    if (sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL) !=
        SQLITE_OK) {
        return s->db == NULL ? err_oom(err, "the state database") : db_error(s, "open", err);
    }
    (void)sqlite3_busy_timeout(s->db, COPY_BUSY_MS);
    return db_exec(s, "PRAGMA trusted_schema = OFF", "open", err);
}

int state_backup(const char *dir, const char *file, struct claas_error *err)
{
    char *path = path_join(dir, "state.db");
    struct state *s = path == NULL ? NULL : copy_new(path);
    free(path);
    if (s == NULL) {
        return err_oom(err, "a backup");
    }
    int rc = copy_open(s, err);
    if (rc == 0) {
        rc = db_is_ours(s, err);
    }
    if (rc == 0) {
        rc = db_copy(s, file, err);
    }
    state_close(s);
    return rc;
}

/* What the journal of the old database still held goes into it, or, where it is too damaged for that, aside: it must
 * never be read as the journal of the new one. */
static int journal_settle(const char *path, struct claas_error *err)
{
    static const char *const tails[] = { "-wal", "-shm" };
    struct claas_error ignored = ERR_INIT;
    struct state *old = copy_new(path);
    if (old == NULL) {
        return err_oom(err, "restoring");
    }
    if (access(path, F_OK) == 0 && copy_open(old, &ignored) == 0) {
        (void)db_exec(old, "PRAGMA wal_checkpoint(TRUNCATE)", "close", &ignored);
    }
    state_close(old);
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        char *from = sqlite3_mprintf("%s%s", path, tails[i]);
        char *to = sqlite3_mprintf("%s.damaged%s", path, tails[i]);
        if (from == NULL || to == NULL) {
            rc = err_oom(err, "restoring");
        } else if (rename(from, to) != 0 && errno != ENOENT) {
            rc = err_errno(err, errno, "state_dir", "cannot rename '%s'", from);
        }
        sqlite3_free(from);
        sqlite3_free(to);
    }
    return rc == 0 ? dir_of_sync(path, err) : rc;
}

/* Under the lock: the checked copy in place of what is there. */
static int restore_into(struct state *from, const char *path, struct claas_error *err)
{
    char *fresh = sqlite3_mprintf("%s.restored", path);
    if (fresh == NULL) {
        return err_oom(err, "restoring");
    }
    int rc = db_copy(from, fresh, err);
    if (rc == 0) {
        rc = journal_settle(path, err);
    }
    if (rc == 0) {
        rc = file_publish(fresh, path, err);
    }
    sqlite3_free(fresh);
    return rc;
}

int state_restore(const char *dir, const char *file, struct claas_error *err)
{
    char *path = path_join(dir, "state.db");
    struct state *from = path == NULL ? NULL : copy_new(file);
    if (from == NULL) {
        free(path);
        return err_oom(err, "restoring");
    }
    int rc = dir_make(dir, 0700, err);
    if (rc == 0) {
        rc = state_lock(dir, &from->lock_fd, err);
    }
    if (rc == 0) {
        rc = copy_open(from, err);
    }
    if (rc == 0) {
        rc = db_is_ours(from, err);
    }
    if (rc == 0) {
        rc = db_check(from, 1, err);
    }
    if (rc == 0) {
        rc = restore_into(from, path, err);
    }
    state_close(from);
    free(path);
    return rc;
}
