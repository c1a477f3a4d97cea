/* SPDX-License-Identifier: MIT */
/* Private to core/state: the connection, its statements and its errors. */
#ifndef STATE_DB_H
#define STATE_DB_H

#include "state/state.h"

#include <pthread.h>
#include <sqlite3.h>

struct counts { /* rows, so that nobody has to count a million of them; as before when a transaction fails */
    uint64_t unrated;        /* rollouts under the count bound */
    uint64_t rated;          /* rollouts that feedback records name */
    uint64_t feedback;
};

struct state {
    pthread_mutex_t mutex;   /* guards the connection: one statement runs at a time */
    sqlite3 *db;
    char *path;
    int lock_fd;
    char tag[5];             /* of this host, in completion ids */
    struct state_options options;
    struct counts n;         /* under the mutex */
};

/* An SQLite failure as an error: what could not be done, to this database, why. */
int db_error(struct state *s, const char *doing, struct claas_error *err);

int db_exec(struct state *s, const char *sql, const char *doing, struct claas_error *err);

/* A prepared statement; finalise it (null is fine). */
int db_prepare(struct state *s, const char *sql, const char *doing, sqlite3_stmt **out, struct claas_error *err);
/* Binds in one go: format letters t (const char *, null = NULL), i (int64_t), u (uint64_t, at most INT64_MAX), b (const void *, size_t; null =
 * NULL). */
int db_bind(struct state *s, sqlite3_stmt *st, const char *doing, struct claas_error *err, const char *format, ...);
/* 1: a row; 0: the end; -1: failed, *err filled. */
int db_step(struct state *s, sqlite3_stmt *st, const char *doing, struct claas_error *err);
/* Prepares, binds, runs to the end and finalises. */
int db_run(struct state *s, const char *doing, struct claas_error *err, const char *sql, const char *format, ...);
/* One number; `otherwise` when there is no row. */
int db_number(struct state *s, const char *doing, int64_t otherwise, int64_t *out, struct claas_error *err,
              const char *sql, const char *format, ...);

/* Free pages go back to the file system, and the journal, in which deleted texts stand, is emptied. Without the
 * mutex. */
int db_give_back(struct state *s, struct claas_error *err);

/* The transaction: BEGIN IMMEDIATE; end commits when rc is 0, else rolls back and keeps the error. */
int db_begin(struct state *s, const char *doing, struct claas_error *err);
int db_end(struct state *s, int rc, const char *doing, struct claas_error *err);

/* The whole database as it is now into `file`, which appears complete and durable or not at all. */
int db_copy(struct state *s, const char *file, struct claas_error *err);
/* 0 if the open database is sound and ours; `thorough` reads every index too. */
int db_check(struct state *s, int thorough, struct claas_error *err);

/* 0 if the open database has our mark, and tables that this claas knows. */
int db_is_ours(struct state *s, struct claas_error *err);
/* Tables: makes them or brings them up to date. */
int db_migrate(struct state *s, struct claas_error *err);
/* UNSUPPORTED unless the tables are of exactly our version. */
int db_current(struct state *s, struct claas_error *err);

/* Under the mutex, inside a transaction: what is over the bounds goes. */
int rollouts_prune(struct state *s, int64_t now_ns, struct claas_error *err);
int feedback_prune(struct state *s, int64_t now_ns, struct claas_error *err);
int jobs_prune(struct state *s, int64_t now_ns, struct claas_error *err);
int audit_prune(struct state *s, int64_t now_ns, struct claas_error *err);
/* Under the mutex, inside a transaction: one more row; a record with its rollouts, its end, its removal. */
int audit_write(struct state *s, const struct state_audit *a, struct claas_error *err);
int feedback_write(struct state *s, const struct state_feedback *f, struct claas_error *err);
/* Under the mutex, inside a transaction: job, record and audit tell the end. */
int job_end(struct state *s, const struct state_job_end *e, struct claas_error *err);
int feedback_end(struct state *s, const struct state_job_end *e, struct claas_error *err);
int feedback_drop(struct state *s, const char *id, struct claas_error *err);
/* Under the mutex: counts the rows. */
int rows_recount(struct state *s, struct claas_error *err);

/* Records as one heap block: first measured, then filled. Start from all zeros. */
struct block {
    char *data;   /* null while measuring */
    size_t used;
};
void *block_take(struct block *b, const void *data, size_t bytes);
/* Column as text (null for NULL) and as bytes. */
const char *block_text(struct block *b, sqlite3_stmt *st, int column);
const void *block_bytes(struct block *b, sqlite3_stmt *st, int column, size_t *out_bytes);

#endif
