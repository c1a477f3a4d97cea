/* SPDX-License-Identifier: MIT */
/* The journal of jobs. A row is there before a job is acknowledged and tells its end in the transaction that also ends
 * its feedback record and writes the audit, so that the three never disagree. */
#include "config.h"

#include "state/db.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define COLUMNS \
    "id, owner, adapter, state, phase, request, result, key, body, log_from, version, attempts, accepted_ns, started_ns," \
    " ended_ns, error_code, error, error_what, seq"

int jobs_prune(struct state *s, int64_t now_ns, struct claas_error *err)
{
    return db_run(s, "prune", err, "DELETE FROM jobs WHERE ended_ns > 0 AND ended_ns < ?", "i",
                  now_ns - s->options.jobs_age_ns);
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */

static int key_is_free(struct state *s, const struct state_job *j, struct claas_error *err)
{
    int64_t taken = 0;
    if (j->key == NULL) {
        return 0;
    }
    int rc = db_number(s, "read", 0, &taken, err, "SELECT count(*) FROM jobs WHERE owner = ? AND key = ?", "tt", j->owner,
                       j->key);
    return rc == 0 && taken > 0 ? err_set(err, CLAAS_ERR_CONFLICT, "Idempotency-Key",
                                          "the key '%.100s' names another job", j->key)
                                : rc;
}

/* Between planning and journalling somebody may have deleted what the job is about. */
static int rollouts_are_there(struct state *s, const struct state_feedback *f, struct claas_error *err)
{
    for (uint32_t i = 0; i < f->n_rollouts; i++) {
        int64_t n = 0;
        int rc = db_number(s, "read", 0, &n, err, "SELECT count(*) FROM rollouts WHERE id = ?", "t", f->rollouts[i]);
        if (rc != 0 || n == 0) {
            return rc != 0 ? rc : err_set(err, CLAAS_ERR_NOT_FOUND, "completion_id", "there is no completion '%s' any more",
                                          f->rollouts[i]);
        }
    }
    return 0;
}

static int add(struct state *s, const struct state_job *j, const struct state_feedback *f, struct claas_error *err)
{
    int rc = key_is_free(s, j, err);
    if (rc == 0) {
        rc = db_run(s, "write to", err,
                    "INSERT INTO jobs (id, owner, adapter, state, phase, request, key, body, log_from, accepted_ns)"
                    " VALUES (?,?,?,'queued',?,?,?,?,?,?)",
                    "ttttttbui", j->id, j->owner, j->adapter, j->phase, j->request_json, j->key, &j->body,
                    sizeof j->body, j->log_from, j->accepted_ns);
    }
    if (rc == 0) {
        rc = feedback_write(s, f, err);
    }
    return rc == 0 ? rollouts_are_there(s, f, err) : rc;
}

int state_job_add(struct state *s, const struct state_job *j, const struct state_feedback *f, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct counts before = s->n;
    int rc = db_begin(s, "write to", err);
    if (rc == 0) {
        rc = db_end(s, add(s, j, f, err), "write to", err);
    }
    if (rc != 0) {
        s->n = before;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* The last statement changed a row, or there was none to change. */
static int changed(struct state *s, int code, const char *id, const char *why, struct claas_error *err)
{
    return sqlite3_changes(s->db) > 0 ? 0 : err_set(err, code, "job", "job '%s' %s", id, why);
}

static int drop(struct state *s, const char *id, struct claas_error *err)
{
    int rc = db_run(s, "write to", err, "DELETE FROM jobs WHERE id = ? AND state = 'queued'", "t", id);
    if (rc == 0) {
        rc = changed(s, CLAAS_ERR_NOT_FOUND, id, "is not waiting", err);
    }
    return rc == 0 ? feedback_drop(s, id, err) : rc;
}

int state_job_drop(struct state *s, const char *id, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct counts before = s->n;
    int rc = db_begin(s, "write to", err);
    if (rc == 0) {
        rc = db_end(s, drop(s, id, err), "write to", err);
    }
    if (rc != 0) {
        s->n = before;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_job_start(struct state *s, const char *id, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_run(s, "write to", err,
                    "UPDATE jobs SET state = 'running', attempts = attempts + 1,"
                    " started_ns = CASE started_ns WHEN 0 THEN ?1 ELSE started_ns END WHERE id = ?2 AND ended_ns = 0",
                    "it", clock_real_ns(), id);
    if (rc == 0) {
        rc = changed(s, CLAAS_ERR_CONFLICT, id, "has ended", err);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_job_phase(struct state *s, const char *id, const char *phase, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_run(s, "write to", err, "UPDATE jobs SET phase = ? WHERE id = ? AND ended_ns = 0", "tt", phase, id);
    if (rc == 0) {
        rc = changed(s, CLAAS_ERR_CONFLICT, id, "has ended", err);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

static int audit_end(struct state *s, const struct state_job_end *e, int64_t now, struct claas_error *err)
{
    const char *action = strcmp(e->state, "done") == 0 ? "step" : e->state;
    return db_run(s, "write to", err,
                  "INSERT INTO audit (time_ns, owner, action, adapter, job, version, code, reason)"
                  " SELECT ?1, owner, ?2, adapter, id, ?3, ?4, ?5 FROM jobs WHERE id = ?6",
                  "ituitt", now, action, e->version, (int64_t)e->error_code, e->error, e->id);
}

int job_end(struct state *s, const struct state_job_end *e, struct claas_error *err)
{
    int64_t now = clock_real_ns();
    int rc = db_run(s, "write to", err,
                    "UPDATE jobs SET state = ?, phase = ?, request = '{}', result = ?, version = ?, ended_ns = ?,"
                    " error_code = ?, error = ?, error_what = ? WHERE id = ? AND ended_ns = 0",
                    "tttuiittt", e->state, e->phase, e->result_json, e->version, now, (int64_t)e->error_code, e->error,
                    e->error_what, e->id);
    if (rc == 0) {
        rc = changed(s, CLAAS_ERR_CONFLICT, e->id, "has ended already", err);
    }
    if (rc == 0) {
        rc = feedback_end(s, e, err);
    }
    if (rc == 0) {
        rc = audit_end(s, e, now, err);
    }
    if (rc == 0) {
        rc = jobs_prune(s, now, err);
    }
    if (rc == 0) {
        rc = audit_prune(s, now, err);
    }
    return rc;
}

int state_job_end(struct state *s, const struct state_job_end *e, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_begin(s, "write to", err);
    if (rc == 0) {
        rc = db_end(s, job_end(s, e, err), "write to", err);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

static struct state_job *row_fill(struct block *b, sqlite3_stmt *st)
{
    struct state_job j = { .log_from = (uint64_t)sqlite3_column_int64(st, 9),
                           .version = (uint64_t)sqlite3_column_int64(st, 10),
                           .attempts = (uint32_t)sqlite3_column_int64(st, 11),
                           .accepted_ns = sqlite3_column_int64(st, 12),
                           .started_ns = sqlite3_column_int64(st, 13),
                           .ended_ns = sqlite3_column_int64(st, 14),
                           .error_code = (int32_t)sqlite3_column_int64(st, 15),
                           .seq = (uint64_t)sqlite3_column_int64(st, 18) };
    struct state_job *out = block_take(b, NULL, sizeof j);
    const void *body = sqlite3_column_blob(st, 8);
    j.id = block_text(b, st, 0);
    j.owner = block_text(b, st, 1);
    j.adapter = block_text(b, st, 2);
    j.state = block_text(b, st, 3);
    j.phase = block_text(b, st, 4);
    j.request_json = block_text(b, st, 5);
    j.result_json = block_text(b, st, 6);
    j.key = block_text(b, st, 7);
    j.error = block_text(b, st, 16);
    j.error_what = block_text(b, st, 17);
    if (body != NULL && (size_t)sqlite3_column_bytes(st, 8) == sizeof j.body) {
        memcpy(&j.body, body, sizeof j.body);
    }
    if (out != NULL) {
        *out = j;
    }
    return out;
}

static int row_read(sqlite3_stmt *st, struct state_job **out, struct claas_error *err)
{
    struct block b = { 0 };
    (void)row_fill(&b, st);
    b.data = calloc(1, b.used + 16);
    if (b.data == NULL) {
        return err_oom(err, "a job");
    }
    b.used = 0;
    *out = row_fill(&b, st);
    return 0;
}

void state_job_free(struct state_job *j)
{
    free(j); /* the first thing in its block */
}

/* One row or NOT_FOUND; under the mutex. Finalises st. */
static int one_read(struct state *s, sqlite3_stmt *st, int rc, const char *id, struct state_job **out,
                    struct claas_error *err)
{
    int got = rc == 0 ? db_step(s, st, "read", err) : -1;
    if (rc == 0 && got > 0) {
        rc = row_read(st, out, err);
    } else if (rc == 0 && got == 0) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "id", "there is no job '%.100s'", id);
    } else if (rc == 0) {
        rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
    }
    sqlite3_finalize(st);
    return rc;
}

int state_job_get(struct state *s, const char *id, const char *owner, struct state_job **out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS " FROM jobs WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)", "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "tt", id, owner);
    }
    rc = one_read(s, st, rc, id, out, err);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_job_by_key(struct state *s, const char *owner, const char *key, int64_t since_ns, struct state_job **out,
                     struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_run(s, "write to", err,
                    "UPDATE jobs SET key = NULL WHERE owner = ? AND key = ? AND accepted_ns < ? AND ended_ns > 0", "tti",
                    owner, key, since_ns);
    if (rc == 0) {
        rc = db_prepare(s, "SELECT " COLUMNS " FROM jobs WHERE owner = ? AND key = ?", "read", &st, err);
    }
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "tt", owner, key);
    }
    rc = one_read(s, st, rc, key, out, err);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_job_next_open(struct state *s, uint64_t after, struct state_job **out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS " FROM jobs WHERE ended_ns = 0 AND seq > ? ORDER BY seq LIMIT 1", "read", &st,
                        err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "u", after);
    }
    rc = one_read(s, st, rc, "open", out, err);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

void state_jobs_clear(struct state_jobs *list)
{
    for (size_t i = 0; i < list->n; i++) {
        state_job_free(list->at[i]);
    }
    free(list->at);
    *list = (struct state_jobs){ 0 };
}

static int page_read(struct state *s, sqlite3_stmt *st, uint32_t limit, struct state_jobs *page, struct claas_error *err)
{
    for (;;) {
        int got = db_step(s, st, "read", err);
        if (got < 0) {
            return err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
        if (got == 0) {
            return 0;
        }
        if (page->n == limit) {
            page->next = page->at[page->n - 1]->seq;
            return 0;
        }
        int rc = row_read(st, &page->at[page->n], err);
        if (rc != 0) {
            return rc;
        }
        page->n++;
    }
}

int state_job_list(struct state *s, const char *owner, uint64_t before, uint32_t limit, struct state_jobs *out,
                   struct claas_error *err)
{
    if (limit < 1 || limit > 1000) {
        return err_set(err, CLAAS_ERR_INVALID, "limit", "cannot list %u jobs: 1 to 1000 fit on a page", limit);
    }
    sqlite3_stmt *st = NULL;
    struct state_jobs page = { .at = mem_array(limit, sizeof *page.at) };
    if (page.at == NULL) {
        return err_oom(err, "a list of jobs");
    }
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS " FROM jobs WHERE (?1 IS NULL OR owner = ?1) AND (?2 = 0 OR seq < ?2)"
                           " ORDER BY seq DESC LIMIT ?3",
                        "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "tui", owner, before, (int64_t)limit + 1);
    }
    if (rc == 0) {
        rc = page_read(s, st, limit, &page, err);
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    if (rc != 0) {
        state_jobs_clear(&page);
        return rc;
    }
    *out = page;
    return 0;
}
