/* SPDX-License-Identifier: MIT */
/* Forgetting what a user wants to be forgotten: rollouts, what feedback records hold of their texts, and jobs that wait to
 * learn from them, in one transaction; then nothing of it stands in the files of the database any more. */
#include "config.h"

#include "state/db.h"

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rollouts, and the feedback records that tell of them. Tables of the connection hold ids only. */
#define MARKS \
    "CREATE TEMP TABLE IF NOT EXISTS gone (seq INTEGER PRIMARY KEY, id TEXT NOT NULL);" \
    "CREATE INDEX IF NOT EXISTS temp.gone_by_id ON gone (id);" \
    "CREATE TEMP TABLE IF NOT EXISTS emptied (seq INTEGER PRIMARY KEY, id TEXT NOT NULL);" \
    "DELETE FROM temp.gone; DELETE FROM temp.emptied"
#define MARK_GONE "INSERT INTO temp.gone SELECT seq, id FROM rollouts WHERE "
/* One statement for each, so that each finds its index. */
#define BY_ID MARK_GONE "id = ?1 AND (?2 IS NULL OR owner = ?2)"
#define BY_USER MARK_GONE "end_user = ?1 AND end_user <> '' AND (?2 IS NULL OR owner = ?2)"
#define BY_OWNER MARK_GONE "owner = ?2 AND ?1 IS NULL"

static int is_all_of_owner(const struct state_forget *what)
{
    return what->id == NULL && what->user == NULL;
}

static int mark(struct state *s, const struct state_forget *what, struct claas_error *err)
{
    const char *sql = what->id != NULL ? BY_ID : what->user != NULL ? BY_USER : BY_OWNER;
    int rc = db_exec(s, MARKS, "delete from", err);
    if (rc == 0) {
        rc = db_run(s, "delete from", err, sql, "tt", what->id != NULL ? what->id : what->user, what->owner);
    }
    if (rc == 0 && what->id != NULL && what->user != NULL) {
        rc = db_run(s, "delete from", err,
                    "DELETE FROM temp.gone WHERE seq NOT IN (SELECT seq FROM rollouts WHERE end_user = ?)", "t", what->user);
    }
    if (rc == 0) {
        rc = db_exec(s, "INSERT OR IGNORE INTO temp.emptied SELECT f.seq, f.id FROM temp.gone AS g CROSS JOIN"
                        " feedback_rollouts AS r ON r.rollout = g.id CROSS JOIN feedback AS f ON f.seq = r.feedback",
                     "delete from", err);
    }
    if (rc == 0 && is_all_of_owner(what)) {
        rc = db_run(s, "delete from", err,
                    "INSERT OR IGNORE INTO temp.emptied SELECT seq, id FROM feedback WHERE owner = ?", "t", what->owner);
    }
    return rc;
}

/* ---- jobs --------------------------------------------------------------------------------------------------------------- */

static int job_refuse(const char *id, struct claas_error *err)
{
    int rc = err_set(err, CLAAS_ERR_CONFLICT, "job", "cannot delete what job '%s' is learning from: wait for its end, or"
                                                     " cancel it first", id);
    if (err != NULL) {
        err->flags |= CLAAS_RETRY;
    }
    return rc;
}

static int cancelled_add(struct state_forgotten *out, size_t *cap, const char *id, struct claas_error *err)
{
    if (mem_grow((void **)&out->cancelled, cap, out->n_cancelled + 1, sizeof *out->cancelled) != 0) {
        return err_oom(err, "deleting");
    }
    (void)snprintf(out->cancelled[out->n_cancelled++], STATE_ID_CAP, "%s", id);
    return 0;
}

/* Those that wait are to be cancelled; one that was begun may have been committed: its end has to come first. */
static int jobs_find(struct state *s, const struct state_forget *what, struct state_forgotten *out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    size_t cap = 0;
    int rc = db_prepare(s, "SELECT j.id, j.attempts FROM jobs AS j WHERE j.ended_ns = 0 AND j.id IN"
                           " (SELECT id FROM temp.emptied) ORDER BY j.seq",
                        "read", &st, err);
    while (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got <= 0) {
            rc = got == 0 ? 0 : err != NULL ? err->code : CLAAS_ERR_INTERNAL;
            break;
        }
        const char *id = (const char *)sqlite3_column_text(st, 0);
        if (id == NULL) {
            rc = err_oom(err, "deleting");
        } else if (sqlite3_column_int64(st, 1) > 0 || (what->runs != NULL && what->runs(what->ctx, id))) {
            rc = job_refuse(id, err);
        } else {
            rc = cancelled_add(out, &cap, id, err);
        }
    }
    sqlite3_finalize(st);
    return rc;
}

static int jobs_cancel(struct state *s, const struct state_forgotten *out, struct claas_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < out->n_cancelled; i++) {
        const struct state_job_end e = { .id = out->cancelled[i], .state = "cancelled", .phase = "lock",
                                         .error_code = CLAAS_ERR_CANCELLED,
                                         .error = "lock: cancelled: what it was to learn from was deleted" };
        rc = job_end(s, &e, err);
    }
    return rc;
}

/* ---- what they made ----------------------------------------------------------------------------------------------------- */

static int trained_add(struct state_forgotten *out, size_t *cap, sqlite3_stmt *st, struct claas_error *err)
{
    const char *adapter = (const char *)sqlite3_column_text(st, 0);
    const char *feedback = (const char *)sqlite3_column_text(st, 2);
    if (adapter == NULL || feedback == NULL ||
        mem_grow((void **)&out->trained, cap, out->n_trained + 1, sizeof *out->trained) != 0) {
        return err_oom(err, "deleting");
    }
    struct state_trained *t = &out->trained[out->n_trained];
    *t = (struct state_trained){ .adapter = mem_dup(adapter, strlen(adapter)),
                                 .version = (uint64_t)sqlite3_column_int64(st, 1) };
    if (t->adapter == NULL) {
        return err_oom(err, "deleting");
    }
    (void)snprintf(t->feedback, sizeof t->feedback, "%s", feedback);
    out->n_trained++;
    return 0;
}

static int trained_find(struct state *s, struct state_forgotten *out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    size_t cap = 0;
    int rc = db_prepare(s, "SELECT adapter, version_to, id FROM feedback WHERE seq IN (SELECT seq FROM temp.emptied)"
                           " AND version_to > 0 ORDER BY seq",
                        "read", &st, err);
    while (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got <= 0) {
            rc = got == 0 ? 0 : err != NULL ? err->code : CLAAS_ERR_INTERNAL;
            break;
        }
        if (out->n_trained == STATE_TRAINED_MAX) {
            out->more = 1;
            break;
        }
        rc = trained_add(out, &cap, st, err);
    }
    sqlite3_finalize(st);
    return rc;
}

/* ---- texts -------------------------------------------------------------------------------------------------------------- */

/* Of a record with several rollouts, only the items of those that go are emptied (null in their place). */
static int items_empty(struct state *s, const struct state_forget *what, struct claas_error *err)
{
    return is_all_of_owner(what)
               ? db_exec(s, "UPDATE feedback SET items = '[]' WHERE seq IN (SELECT seq FROM temp.emptied)",
                         "delete from", err)
               : db_exec(s, "UPDATE feedback SET items = CASE WHEN json_valid(items) THEN (SELECT"
                            " json_group_array(CASE WHEN EXISTS (SELECT 1 FROM feedback_rollouts AS r, temp.gone AS g WHERE"
                            " r.feedback = feedback.seq AND r.position = j.key AND g.id = r.rollout) THEN json('null')"
                            " ELSE json(j.value) END) FROM json_each(items) AS j) ELSE '[]' END"
                            " WHERE seq IN (SELECT seq FROM temp.emptied)",
                         "delete from", err);
}

static int rollouts_drop(struct state *s, struct state_forgotten *out, struct claas_error *err)
{
    int64_t rated = 0;
    int rc = db_number(s, "count", 0, &rated, err,
                       "SELECT count(*) FROM temp.gone AS g CROSS JOIN rollouts AS r ON r.seq = g.seq WHERE r.rated > 0", "");
    if (rc == 0) {
        rc = db_run(s, "delete from", err, "DELETE FROM rollouts WHERE seq IN (SELECT seq FROM temp.gone)", "");
    }
    if (rc == 0) {
        out->rollouts = (uint64_t)sqlite3_changes64(s->db);
        s->n.rated -= (uint64_t)rated;
        s->n.unrated -= out->rollouts - (uint64_t)rated;
    }
    return rc;
}

static int forget(struct state *s, const struct state_forget *what, struct state_forgotten *out, struct claas_error *err)
{
    int rc = mark(s, what, err);
    if (rc == 0) {
        rc = jobs_find(s, what, out, err);
    }
    if (rc == 0) {
        rc = jobs_cancel(s, out, err);
    }
    if (rc == 0) {
        rc = trained_find(s, out, err);
    }
    if (rc == 0) {
        rc = items_empty(s, what, err);
        out->feedback = rc == 0 ? (uint64_t)sqlite3_changes64(s->db) : 0;
    }
    return rc == 0 ? rollouts_drop(s, out, err) : rc;
}

int state_forget(struct state *s, const struct state_forget *what, struct state_forgotten *out, struct claas_error *err)
{
    struct state_forgotten f = { 0 };
    struct claas_error later = ERR_INIT;
    if (what->id == NULL && what->user == NULL && what->owner == NULL) {
        return err_set(err, CLAAS_ERR_INVALID, "", "cannot delete: nothing says which completions");
    }
    (void)pthread_mutex_lock(&s->mutex);
    struct counts before = s->n;
    int rc = db_begin(s, "delete from", err);
    if (rc == 0) {
        rc = db_end(s, forget(s, what, &f, err), "delete from", err);
    }
    if (rc != 0) {
        s->n = before;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    if (rc != 0) {
        state_forgotten_clear(&f);
        return rc;
    }
    if (f.rollouts + f.feedback > 0 && db_give_back(s, &later) != 0) {
        log_line(LOG_WARNING, "state", "what was deleted may stand in the journal until the next tidying: %s",
                 later.message);
    }
    *out = f;
    return 0;
}

void state_forgotten_clear(struct state_forgotten *f)
{
    for (size_t i = 0; i < f->n_trained; i++) {
        free(f->trained[i].adapter);
    }
    free(f->trained);
    free(f->cancelled);
    *f = (struct state_forgotten){ 0 };
}
