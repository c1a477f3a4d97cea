/* SPDX-License-Identifier: MIT */
/* The connection to the state database: opening it under the lock of its directory, small wrappers over SQLite, and
 * the translation of its errors. */
#include "config.h"

#include "state/db.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long to wait for somebody who reads the database with another program. */
enum { BUSY_MS = 5000 };
/* Databases up to this size are checked page by page at the start; larger ones page by page as they are read. */
enum { CHECK_BYTES = 16 << 20 };

int db_error(struct state *s, const char *doing, struct claas_error *err)
{
    int code = CLAAS_ERR_INTERNAL;
    switch (sqlite3_errcode(s->db) & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        code = CLAAS_ERR_CORRUPT;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        code = CLAAS_ERR_UNAVAILABLE;
        break;
    case SQLITE_FULL:
    case SQLITE_NOMEM:
        code = CLAAS_ERR_EXHAUSTED;
        break;
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
        code = CLAAS_ERR_FORBIDDEN;
        break;
    default:
        break;
    }
    return err_set(err, code, "state_dir", "cannot %s '%s': %s", doing, s->path, sqlite3_errmsg(s->db));
}

int db_exec(struct state *s, const char *sql, const char *doing, struct claas_error *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(s, doing, err);
}

int db_prepare(struct state *s, const char *sql, const char *doing, sqlite3_stmt **out, struct claas_error *err)
{
    return sqlite3_prepare_v2(s->db, sql, -1, out, NULL) == SQLITE_OK ? 0 : db_error(s, doing, err);
}

static int bind_list(struct state *s, sqlite3_stmt *st, const char *doing, struct claas_error *err,
                     const char *format, va_list list)
{
    int rc = SQLITE_OK;
    for (int i = 1; *format != '\0' && rc == SQLITE_OK; i++, format++) {
        if (*format == 't') {
            rc = sqlite3_bind_text(st, i, va_arg(list, const char *), -1, SQLITE_STATIC);
        } else if (*format == 'i') {
            rc = sqlite3_bind_int64(st, i, va_arg(list, int64_t));
        } else if (*format == 'u') {
            uint64_t v = va_arg(list, uint64_t);
            rc = sqlite3_bind_int64(st, i, v > INT64_MAX ? INT64_MAX : (int64_t)v);
        } else {
            const void *data = va_arg(list, const void *);
            size_t n = va_arg(list, size_t);
            /* A null pointer would bind NULL; an empty blob must stay a blob. */
            rc = data == NULL ? sqlite3_bind_null(st, i) : sqlite3_bind_blob64(st, i, data, n, SQLITE_STATIC);
        }
    }
    return rc == SQLITE_OK ? 0 : db_error(s, doing, err);
}

int db_bind(struct state *s, sqlite3_stmt *st, const char *doing, struct claas_error *err, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int rc = bind_list(s, st, doing, err, format, list);
    va_end(list);
    return rc;
}

int db_step(struct state *s, sqlite3_stmt *st, const char *doing, struct claas_error *err)
{
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        return 1;
    }
    if (rc == SQLITE_DONE) {
        return 0;
    }
    (void)db_error(s, doing, err);
    return -1;
}

static int run_list(struct state *s, const char *doing, struct claas_error *err, const char *sql,
                    const char *format, va_list list, int64_t *out)
{
    sqlite3_stmt *st = NULL;
    int rc = db_prepare(s, sql, doing, &st, err);
    if (rc == 0) {
        rc = bind_list(s, st, doing, err, format, list);
    }
    while (rc == 0) {
        int got = db_step(s, st, doing, err);
        if (got <= 0) {
            rc = got;
            break;
        }
        if (out != NULL) {
            *out = sqlite3_column_int64(st, 0);
            out = NULL;
        }
    }
    if (rc < 0) {
        rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
    }
    sqlite3_finalize(st);
    return rc;
}

int db_run(struct state *s, const char *doing, struct claas_error *err, const char *sql, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int rc = run_list(s, doing, err, sql, format, list, NULL);
    va_end(list);
    return rc;
}

int db_number(struct state *s, const char *doing, int64_t otherwise, int64_t *out, struct claas_error *err,
              const char *sql, const char *format, ...)
{
    int64_t value = otherwise;
    va_list list;
    va_start(list, format);
    int rc = run_list(s, doing, err, sql, format, list, &value);
    va_end(list);
    if (rc == 0) {
        *out = value;
    }
    return rc;
}

int db_begin(struct state *s, const char *doing, struct claas_error *err)
{
    return db_exec(s, "BEGIN IMMEDIATE", doing, err);
}

int db_end(struct state *s, int rc, const char *doing, struct claas_error *err)
{
    if (rc == 0) {
        rc = db_exec(s, "COMMIT", doing, err);
    }
    if (rc != 0 && sqlite3_get_autocommit(s->db) == 0) {
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL); /* the error to report is the first one */
    }
    return rc;
}

/* ---- records as one block ------------------------------------------------------------------------------------------- */

void *block_take(struct block *b, const void *data, size_t bytes)
{
    size_t at = (b->used + 15) & ~(size_t)15;
    b->used = at + bytes;
    if (b->data == NULL) {
        return NULL;
    }
    if (data != NULL) {
        memcpy(b->data + at, data, bytes);
    }
    return b->data + at;
}

const char *block_text(struct block *b, sqlite3_stmt *st, int column)
{
    const unsigned char *text = sqlite3_column_text(st, column);
    return text == NULL ? NULL : block_take(b, text, (size_t)sqlite3_column_bytes(st, column) + 1);
}

const void *block_bytes(struct block *b, sqlite3_stmt *st, int column, size_t *out_bytes)
{
    const void *data = sqlite3_column_blob(st, column);
    *out_bytes = (size_t)sqlite3_column_bytes(st, column);
    return data == NULL ? NULL : block_take(b, data, *out_bytes);
}

/* ---- open, close ------------------------------------------------------------------------------------------------------ */

static int connect_to(struct state *s, const char *path, int create, struct claas_error *err)
{
    /* Not SQLITE_OPEN_NOFOLLOW: that refuses links in the directories too, and state directories may be links. */
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | (create ? SQLITE_OPEN_CREATE : 0);
    if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK) {
        return s->db == NULL ? err_oom(err, "the state database") : db_error(s, "open", err);
    }
    (void)sqlite3_busy_timeout(s->db, BUSY_MS);
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    /* How free pages are given back is chosen before the first page is written, which WAL does. */
    return db_exec(s, "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                      "PRAGMA trusted_schema = OFF; PRAGMA secure_delete = ON",
                   "open", err);
}

static int disconnect(struct state *s, struct claas_error *err)
{
    int rc = sqlite3_close(s->db) == SQLITE_OK ? 0 : db_error(s, "close", err);
    if (rc == 0) {
        s->db = NULL;
    }
    return rc;
}

static int meta_write(struct state *s, struct claas_error *err)
{
    char tag[5];
    if (rng_hex(tag, 4) != 0) {
        return err_set(err, CLAAS_ERR_INTERNAL, "state_dir", "cannot make '%s': no random numbers", s->path);
    }
    return db_run(s, "make", err, "INSERT INTO meta (name, value) VALUES ('host_tag', ?)", "t", tag);
}

/* A new database is made whole under another name, so that a file called state.db that is empty or has no tables is
 * always damage, never a beginning. */
static int make(struct state *s, const char *dir, struct claas_error *err)
{
    char *fresh = path_join(dir, "state.db.new");
    if (fresh == NULL) {
        return err_oom(err, "a new state database");
    }
    int rc = 0;
    int fd = -1;
    if (unlink(fresh) != 0 && errno != ENOENT) {
        rc = err_errno(err, errno, "state_dir", "cannot remove '%s'", fresh);
    }
    if (rc == 0) {
        fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600); /* for the mode: the journal files take it over */
        rc = fd < 0 ? err_errno(err, errno, "state_dir", "cannot make '%s'", fresh) : 0;
    }
    if (fd >= 0) {
        (void)close(fd); /* nothing was written */
    }
    if (rc == 0) {
        rc = connect_to(s, fresh, 1, err);
    }
    if (rc == 0) {
        rc = db_migrate(s, err);
    }
    if (rc == 0) {
        rc = meta_write(s, err);
    }
    if (rc == 0) {
        rc = disconnect(s, err);
    }
    if (rc == 0 && rename(fresh, s->path) != 0) {
        rc = err_errno(err, errno, "state_dir", "cannot rename '%s' to '%s'", fresh, s->path);
    }
    if (rc == 0) {
        rc = dir_sync(dir, err);
    }
    free(fresh);
    return rc;
}

/* What stands in the journal of a database that is gone cannot be read without it. */
static int journal_check(struct state *s, struct claas_error *err)
{
    struct stat st;
    char *wal = malloc(strlen(s->path) + 5);
    if (wal == NULL) {
        return err_oom(err, "the state database");
    }
    (void)sprintf(wal, "%s-wal", s->path);
    int lost = stat(wal, &st) == 0 && st.st_size > 0;
    free(wal);
    return lost ? err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot open '%s': it is gone, but its journal '%s-wal' is not",
                          s->path, s->path)
                : 0;
}

int db_check(struct state *s, int thorough, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = db_prepare(s, thorough ? "PRAGMA integrity_check(1)" : "PRAGMA quick_check(1)", "check", &st, err);
    if (rc != 0) {
        return rc;
    }
    int got = db_step(s, st, "check", err);
    const char *said = got == 1 ? (const char *)sqlite3_column_text(st, 0) : NULL;
    if (got < 0) {
        rc = err != NULL ? err->code : CLAAS_ERR_CORRUPT;
    } else if (said == NULL || strcmp(said, "ok") != 0) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot open '%s': it is damaged: %s", s->path,
                     said == NULL ? "no answer" : said);
    }
    sqlite3_finalize(st);
    return rc;
}

static int tag_read(struct state *s, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = db_prepare(s, "SELECT value FROM meta WHERE name = 'host_tag'", "read", &st, err);
    if (rc != 0) {
        return rc;
    }
    int got = db_step(s, st, "read", err);
    const char *tag = got == 1 ? (const char *)sqlite3_column_text(st, 0) : NULL;
    if (tag != NULL && strlen(tag) == 4) {
        memcpy(s->tag, tag, 5);
    } else if (got < 0) {
        rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
    } else {
        rc = err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot open '%s': it has no host tag", s->path);
    }
    sqlite3_finalize(st);
    return rc;
}

/* What the last process left: requests it did not finish. */
static int interrupted_mark(struct state *s, struct claas_error *err)
{
    return db_run(s, "tidy", err,
                  "UPDATE feedback SET status = 'interrupted', error = 'the daemon ended before the request did',"
                  " error_code = ? WHERE status = 'running' AND id NOT IN (SELECT id FROM jobs WHERE ended_ns = 0)",
                  "i", (int64_t)CLAAS_ERR_INTERNAL);
}

/* All that is over a bound, in one transaction. */
static int prune_all(struct state *s, struct claas_error *err)
{
    struct counts before = s->n;
    int64_t now = clock_real_ns();
    int rc = db_begin(s, "tidy", err);
    if (rc != 0) {
        return rc;
    }
    rc = jobs_prune(s, now, err);
    if (rc == 0) {
        rc = audit_prune(s, now, err);
    }
    if (rc == 0) {
        rc = feedback_prune(s, now, err);
    }
    if (rc == 0) {
        rc = rollouts_prune(s, now, err);
    }
    rc = db_end(s, rc, "tidy", err);
    if (rc != 0) {
        s->n = before;
    }
    return rc;
}

/* Databases from before free pages were given back are rewritten once. One that cannot be works on as it is. */
static void vacuum_choose(struct state *s)
{
    struct claas_error err = ERR_INIT;
    int64_t mode = 0;
    int rc = db_number(s, "read", 0, &mode, &err, "PRAGMA auto_vacuum", "");
    if (rc == 0 && mode == 0) {
        log_line(LOG_INFO, "state", "'%s' is rewritten once, so that space of what is deleted goes back", s->path);
        rc = db_exec(s, "PRAGMA auto_vacuum = INCREMENTAL; VACUUM", "rewrite", &err);
    }
    if (rc != 0) {
        log_line(LOG_WARNING, "state", "space of what is deleted does not go back: %s", err.message);
    }
}

/* Some free pages to the file system; *left: those that remain. */
static int shrink(struct state *s, int64_t *left, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_exec(s, "PRAGMA incremental_vacuum(1000)", "shrink", err);
    if (rc == 0) {
        rc = db_number(s, "shrink", 0, left, err, "PRAGMA freelist_count", "");
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int db_give_back(struct state *s, struct claas_error *err)
{
    int64_t left = INT64_MAX;
    int64_t before = 0;
    int64_t busy = 0;
    int rc = 0;
    do { /* in pieces, so that answers can be recorded between them */
        before = left;
        rc = shrink(s, &left, err);
    } while (rc == 0 && left > 0 && left < before);
    if (rc != 0) {
        return rc;
    }
    (void)pthread_mutex_lock(&s->mutex);
    rc = db_number(s, "shrink", 0, &busy, err, "PRAGMA wal_checkpoint(TRUNCATE)", "");
    (void)pthread_mutex_unlock(&s->mutex);
    return rc == 0 && busy ? err_set(err, CLAAS_ERR_UNAVAILABLE, "state_dir",
                                     "cannot empty the journal of '%s': another program reads it", s->path)
                           : rc;
}

int state_tidy(struct state *s, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = prune_all(s, err);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc == 0 ? db_give_back(s, err) : rc;
}

static int open_existing(struct state *s, const struct stat *st, struct claas_error *err)
{
    if (!S_ISREG(st->st_mode) || st->st_size == 0) {
        return err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot open '%s': it is %s", s->path,
                       S_ISREG(st->st_mode) ? "empty" : "not a regular file");
    }
    int rc = connect_to(s, s->path, 0, err);
    if (rc == 0 && st->st_size <= CHECK_BYTES) {
        rc = db_check(s, 0, err);
    }
    if (rc == 0) {
        rc = db_migrate(s, err);
    }
    if (rc == 0) {
        rc = tag_read(s, err);
    }
    if (rc == 0) {
        rc = rows_recount(s, err);
    }
    if (rc == 0) {
        rc = interrupted_mark(s, err);
    }
    if (rc == 0) {
        rc = prune_all(s, err);
    }
    if (rc == 0) {
        vacuum_choose(s);
    }
    return rc;
}

static int open_in(struct state *s, const char *dir, struct claas_error *err)
{
    struct stat st;
    int rc = dir_make(dir, 0700, err);
    if (rc == 0) {
        rc = state_lock(dir, &s->lock_fd, err);
    }
    if (rc != 0) {
        return rc;
    }
    if (lstat(s->path, &st) != 0) {
        if (errno != ENOENT) {
            return err_errno(err, errno, "state_dir", "cannot open '%s'", s->path);
        }
        rc = journal_check(s, err);
        if (rc == 0) {
            rc = make(s, dir, err);
        }
        if (rc == 0 && lstat(s->path, &st) != 0) {
            rc = err_errno(err, errno, "state_dir", "cannot open '%s'", s->path);
        }
    }
    return rc == 0 ? open_existing(s, &st, err) : rc;
}

/* Whoever reads of damage also reads how to go on. */
static int way_out(const struct state *s, struct claas_error *err)
{
    char said[sizeof err->message];
    if (err == NULL) {
        return CLAAS_ERR_CORRUPT;
    }
    (void)snprintf(said, sizeof said, "%s", err->message);
    return err_set(err, CLAAS_ERR_CORRUPT, "state_dir",
                   "%s; put a backup in its place with 'claas restore FILE' ('%s.v1' and the like are copies made before "
                   "updates)",
                   said, s->path);
}

int state_open(const char *dir, const struct state_options *options, struct state **out, struct claas_error *err)
{
    struct state *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return err_oom(err, "the state database");
    }
    s->lock_fd = -1;
    if (options != NULL) {
        s->options = *options;
    }
    if (s->options.rollouts_max == 0) {
        s->options.rollouts_max = 10000;
    }
    if (s->options.rollouts_age_ns == 0) {
        s->options.rollouts_age_ns = INT64_C(30) * 24 * 3600 * 1000000000;
    }
    if (s->options.feedback_max == 0) {
        s->options.feedback_max = 100000;
    }
    if (s->options.jobs_age_ns == 0) {
        s->options.jobs_age_ns = INT64_C(7) * 24 * 3600 * 1000000000;
    }
    if (s->options.audit_age_ns == 0) {
        s->options.audit_age_ns = INT64_C(365) * 24 * 3600 * 1000000000;
    }
    if (pthread_mutex_init(&s->mutex, NULL) != 0) {
        free(s);
        return err_oom(err, "the state database");
    }
    s->path = path_join(dir, "state.db");
    int rc = s->path == NULL ? err_oom(err, "the state database") : open_in(s, dir, err);
    if (rc == CLAAS_ERR_CORRUPT) {
        rc = way_out(s, err);
    }
    if (rc != 0) {
        state_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

int state_open_beside(const char *dir, struct state **out, struct claas_error *err)
{
    struct state *s = calloc(1, sizeof *s);
    struct stat st;
    if (s == NULL) {
        return err_oom(err, "the state database");
    }
    s->lock_fd = -1;
    if (pthread_mutex_init(&s->mutex, NULL) != 0) {
        free(s);
        return err_oom(err, "the state database");
    }
    s->path = path_join(dir, "state.db");
    int rc = s->path == NULL ? err_oom(err, "the state database") : 0;
    if (rc == 0 && lstat(s->path, &st) != 0) {
        rc = err_errno(err, errno, "state_dir", "cannot open '%s'", s->path);
    }
    if (rc == 0) {
        rc = connect_to(s, s->path, 0, err);
    }
    if (rc == 0) {
        rc = db_current(s, err);
    }
    if (rc != 0) {
        state_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void state_close(struct state *s)
{
    if (s == NULL) {
        return;
    }
    if (s->db != NULL && sqlite3_close(s->db) != SQLITE_OK) {
        log_line(LOG_WARNING, "state", "cannot close '%s' cleanly: %s", s->path, sqlite3_errmsg(s->db));
    }
    if (s->lock_fd >= 0) {
        (void)close(s->lock_fd); /* gives the lock back */
    }
    (void)pthread_mutex_destroy(&s->mutex);
    free(s->path);
    free(s);
}

int state_completion_id(const struct state *s, const char *prefix, char out[STATE_ID_CAP], struct claas_error *err)
{
    char digits[21];
    if (rng_hex(digits, 20) != 0) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot make a completion id: no random numbers");
    }
    (void)snprintf(out, STATE_ID_CAP, "%s%s%s", prefix, s->tag, digits);
    return 0;
}
