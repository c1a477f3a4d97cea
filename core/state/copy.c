/* SPDX-License-Identifier: MIT */
/* Copies of the state database: before an update of its tables, as a backup, back from a backup. A copy is one file
 * without a journal beside it; it appears whole and durable under its name, or not at all. */
#include "config.h"

#include "state/db.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static int exists_refuse(const char *file, struct claas_error *err)
{
    return err_set(err, CLAAS_ERR_CONFLICT, "file", "cannot write '%s': it is there already", file);
}

/* Where the file system cannot rename so, who made the name between our look and now loses his file. */
static int rename_as(const char *from, const char *to, int replace)
{
    if (!replace) {
        int rc = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
        if (rc == 0 || (errno != EINVAL && errno != ENOSYS)) {
            return rc;
        }
    }
    return rename(from, to);
}

static int file_publish(const char *from, const char *to, int replace, struct claas_error *err)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fsync(fd) != 0 || rename_as(from, to, replace) != 0) {
        int rc = errno == EEXIST ? exists_refuse(to, err) : err_errno(err, errno, "file", "cannot write '%s'", to);
        if (fd >= 0) {
            (void)close(fd); /* only read */
        }
        return rc;
    }
    (void)close(fd); /* only read */
    return dir_of_sync(to, err);
}

static int copy_as(struct state *s, const char *file, int replace, struct claas_error *err)
{
    sqlite3 *to = NULL;
    char *part = sqlite3_mprintf("%s.part", file);
    if (part == NULL) {
        return err_oom(err, "a copy of the state database");
    }
    int rc = file_fresh(part, err);
    int made = rc == 0;
    if (rc == 0 && sqlite3_open_v2(part, &to, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "file", "cannot open '%s'", part);
    }
    if (rc == 0) {
        rc = pages_copy(s, to, file, err);
    }
    if (sqlite3_close(to) != SQLITE_OK && rc == 0) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "file", "cannot close '%s'", part);
    }
    if (rc == 0) {
        rc = file_publish(part, file, replace, err);
    }
    if (rc != 0 && made) {
        (void)unlink(part); /* the error already tells what matters */
    }
    sqlite3_free(part);
    return rc;
}

int db_copy(struct state *s, const char *file, struct claas_error *err)
{
    return copy_as(s, file, 1, err);
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

/* A database must not be its own backup: the daemon would go on with a file that has lost its name. */
static int is_same(const char *a, const char *b)
{
    struct stat x;
    struct stat y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int names_check(const struct state *s, const char *file, int replace, struct claas_error *err)
{
    if (is_same(s->path, file)) {
        return err_set(err, CLAAS_ERR_INVALID, "file", "cannot write a backup to '%s': it is the database itself", file);
    }
    return !replace && access(file, F_OK) == 0 ? exists_refuse(file, err) : 0;
}

int state_backup(const char *dir, const char *file, int replace, struct claas_error *err)
{
    char *path = path_join(dir, "state.db");
    struct state *s = path == NULL ? NULL : copy_new(path);
    free(path);
    if (s == NULL) {
        return err_oom(err, "a backup");
    }
    int rc = names_check(s, file, replace, err);
    if (rc == 0) {
        rc = copy_open(s, err);
    }
    if (rc == 0) {
        rc = db_is_ours(s, err);
    }
    if (rc == 0) {
        rc = copy_as(s, file, replace, err);
    }
    state_close(s);
    return rc;
}

/* What the journal of the old database still held goes into it. Only where that is too damaged for it, a journal is left. */
static int journal_settle(const char *path, struct claas_error *err)
{
    struct stat st;
    struct state *old = copy_new(path);
    char *wal = sqlite3_mprintf("%s-wal", path);
    int rc = old == NULL || wal == NULL ? err_oom(err, "restoring") : copy_open(old, err);
    if (rc == 0) {
        rc = db_exec(old, "PRAGMA wal_checkpoint(TRUNCATE)", "close", err);
    }
    state_close(old);
    if (rc == 0 && stat(wal, &st) == 0 && st.st_size > 0) {
        rc = err_set(err, CLAAS_ERR_CONFLICT, "state_dir", "cannot replace '%s': somebody reads it; try again", path);
    }
    sqlite3_free(wal);
    return rc == CLAAS_ERR_CORRUPT ? 0 : rc;
}

/* The old database has a second name from now on, and its journal, if one is left, goes with it: it must never be read as
 * the journal of the new one. */
static int old_keep(const char *path, char **out_kept, struct claas_error *err)
{
    static const char *const tails[] = { "-wal", "-shm" };
    char when[CLOCK_TEXT];
    clock_format(clock_real_ns(), when);
    char *name = sqlite3_mprintf("%s.%s", path, when);
    char *kept = name == NULL ? NULL : strdup(name);
    sqlite3_free(name);
    if (kept == NULL) {
        return err_oom(err, "restoring");
    }
    int rc = link(path, kept) == 0 ? 0 : err_errno(err, errno, "state_dir", "cannot keep '%s' as '%s'", path, kept);
    for (int i = 0; i < 2 && rc == 0; i++) {
        char *from = sqlite3_mprintf("%s%s", path, tails[i]);
        char *to = sqlite3_mprintf("%s%s", kept, tails[i]);
        if (from == NULL || to == NULL) {
            rc = err_oom(err, "restoring");
        } else if (rename(from, to) != 0 && errno != ENOENT) {
            rc = err_errno(err, errno, "state_dir", "cannot rename '%s'", from);
        }
        sqlite3_free(from);
        sqlite3_free(to);
    }
    if (rc == 0) {
        rc = dir_of_sync(path, err);
    }
    if (rc != 0) {
        free(kept);
        return rc;
    }
    *out_kept = kept;
    return 0;
}

/* Under the lock: the checked copy in place of what is there. */
static int restore_into(struct state *from, const char *path, char **out_kept, struct claas_error *err)
{
    char *fresh = sqlite3_mprintf("%s.restored", path);
    if (fresh == NULL) {
        return err_oom(err, "restoring");
    }
    int rc = db_copy(from, fresh, err);
    if (rc == 0 && access(path, F_OK) == 0) {
        rc = journal_settle(path, err);
        if (rc == 0) {
            rc = old_keep(path, out_kept, err);
        }
    }
    if (rc == 0) {
        rc = file_publish(fresh, path, 1, err);
    }
    sqlite3_free(fresh);
    return rc;
}

int state_restore(const char *dir, const char *file, char **out_kept, struct claas_error *err)
{
    char *kept = NULL;
    char *path = path_join(dir, "state.db");
    struct state *from = path == NULL ? NULL : copy_new(file);
    if (from == NULL) {
        free(path);
        return err_oom(err, "restoring");
    }
    int rc = is_same(path, file)
                 ? err_set(err, CLAAS_ERR_INVALID, "file", "cannot restore '%s': it is the database itself", file)
                 : dir_make(dir, 0700, err);
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
        rc = restore_into(from, path, &kept, err);
    }
    state_close(from);
    free(path);
    if (rc != 0) {
        free(kept);
        return rc;
    }
    *out_kept = kept;
    return 0;
}
