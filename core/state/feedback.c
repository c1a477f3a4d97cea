/* SPDX-License-Identifier: MIT */
/* Feedback records and the rollouts they rate: those belong to the record and live as long as it does. */
#include "config.h"

#include "state/db.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>

#define COLUMNS \
    "id, owner, adapter, status, phase, time_ns, version_from, version_to, items, settings, metrics, timing," \
    " error_code, error, seq"

enum { C_ID, C_OWNER, C_ADAPTER, C_STATUS, C_PHASE, C_TIME, C_FROM, C_TO, C_ITEMS, C_SETTINGS, C_METRICS, C_TIMING,
       C_CODE, C_ERROR, C_SEQ };

/* The rollouts that record `seq` names are rated once less (by -1), or once more (by 1). */
static int rate(struct state *s, int64_t seq, int64_t by, struct claas_error *err)
{
    int64_t moved = 0; /* from unrated to rated, or back */
    int rc = db_number(s, "count", 0, &moved, err,
                       "SELECT count(*) FROM rollouts WHERE rated = ?1 AND id IN"
                       " (SELECT rollout FROM feedback_rollouts WHERE feedback = ?2)",
                       "ii", by > 0 ? (int64_t)0 : (int64_t)1, seq);
    if (rc == 0) {
        rc = db_run(s, "write to", err,
                    "UPDATE rollouts SET rated = max(0, rated + ?1) WHERE id IN"
                    " (SELECT rollout FROM feedback_rollouts WHERE feedback = ?2)",
                    "ii", by, seq);
    }
    if (rc == 0) {
        s->n.unrated -= (uint64_t)(by * moved);
        s->n.rated += (uint64_t)(by * moved);
    }
    return rc;
}

static int drop(struct state *s, int64_t seq, struct claas_error *err)
{
    int rc = rate(s, seq, -1, err);
    if (rc == 0) {
        rc = db_run(s, "prune", err, "DELETE FROM feedback WHERE seq = ?", "i", seq);
    }
    if (rc == 0) {
        s->n.feedback--;
    }
    return rc;
}

/* Up to `n` records, as `sql` finds them one by one. */
static int drop_where(struct state *s, uint64_t n, const char *sql, int64_t value, struct claas_error *err)
{
    int rc = 0;
    for (int64_t seq = 1; rc == 0 && seq != 0 && n > 0; n--) {
        rc = db_number(s, "prune", 0, &seq, err, sql, "i", value);
        if (rc == 0 && seq != 0) {
            rc = drop(s, seq, err);
        }
    }
    return rc;
}

int feedback_prune(struct state *s, int64_t now_ns, struct claas_error *err)
{
    int rc = 0;
    if (s->options.feedback_age_ns > 0) {
        rc = drop_where(s, UINT64_MAX,
                        "SELECT seq FROM feedback WHERE time_ns < ? AND status <> 'running' ORDER BY time_ns LIMIT 1",
                        now_ns - s->options.feedback_age_ns, err);
    }
    if (rc == 0 && s->n.feedback > s->options.feedback_max) {
        rc = drop_where(s, s->n.feedback - s->options.feedback_max,
                        "SELECT seq FROM feedback WHERE seq > ? AND status <> 'running' ORDER BY seq LIMIT 1", 0, err);
    }
    return rc;
}

static int names_write(struct state *s, int64_t seq, const struct state_feedback *f, struct claas_error *err)
{
    int rc = rate(s, seq, -1, err);
    if (rc == 0) {
        rc = db_run(s, "write to", err, "DELETE FROM feedback_rollouts WHERE feedback = ?", "i", seq);
    }
    for (uint32_t i = 0; rc == 0 && i < f->n_rollouts; i++) {
        rc = db_run(s, "write to", err,
                    "INSERT INTO feedback_rollouts (feedback, position, rollout) VALUES (?, ?, ?)", "iit", seq,
                    (int64_t)i, f->rollouts[i]);
    }
    return rc == 0 ? rate(s, seq, 1, err) : rc;
}

int feedback_write(struct state *s, const struct state_feedback *f, struct claas_error *err)
{
    int64_t seq = 0;
    int64_t was = 0;
    int rc = db_number(s, "read", 0, &was, err, "SELECT count(*) FROM feedback WHERE id = ?", "t", f->id);
    if (rc != 0) {
        return rc;
    }
    s->n.feedback += was == 0;
    rc = db_run(s, "write to", err,
                    "INSERT INTO feedback (id, owner, adapter, status, phase, time_ns, version_from, version_to, items,"
                    " settings, metrics, timing, error_code, error) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
                    " ON CONFLICT (id) DO UPDATE SET adapter = excluded.adapter, status = excluded.status,"
                    " phase = excluded.phase, version_from = excluded.version_from, version_to = excluded.version_to,"
                    " items = excluded.items, settings = excluded.settings, metrics = excluded.metrics,"
                    " timing = excluded.timing, error_code = excluded.error_code, error = excluded.error",
                    "tttttiuuttttit", f->id, f->owner, f->adapter, f->status, f->phase, f->time_ns, f->version_from,
                    f->version_to, f->items_json, f->settings_json, f->metrics_json, f->timing_json,
                    (int64_t)f->error_code, f->error);
    if (rc == 0) {
        rc = db_number(s, "write to", 0, &seq, err, "SELECT seq FROM feedback WHERE id = ?", "t", f->id);
    }
    if (rc == 0) {
        rc = names_write(s, seq, f, err);
    }
    return rc == 0 ? feedback_prune(s, clock_real_ns(), err) : rc;
}

int feedback_end(struct state *s, const struct state_job_end *e, struct claas_error *err)
{
    return db_run(s, "write to", err,
                  "UPDATE feedback SET status = ?, phase = ?, version_from = ?, version_to = ?, metrics = ?, timing = ?,"
                  " error_code = ?, error = ? WHERE id = ?",
                  "ttuuttitt", e->error_code == 0 ? "ok" : "error", e->phase, e->version_from, e->version,
                  e->metrics_json, e->timing_json, (int64_t)e->error_code, e->error, e->id);
}

int feedback_drop(struct state *s, const char *id, struct claas_error *err)
{
    int64_t seq = 0;
    int rc = db_number(s, "write to", 0, &seq, err, "SELECT seq FROM feedback WHERE id = ?", "t", id);
    return rc == 0 && seq != 0 ? drop(s, seq, err) : rc;
}

int state_feedback_put(struct state *s, const struct state_feedback *f, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct counts before = s->n;
    int rc = db_begin(s, "write to", err);
    if (rc == 0) {
        rc = db_end(s, feedback_write(s, f, err), "write to", err);
    }
    if (rc != 0) {
        s->n = before;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

static const char *text_column(struct block *b, sqlite3_stmt *st, int column)
{
    const char *text = block_text(b, st, column);
    return text == NULL ? "" : text;
}

static void fill(struct block *b, sqlite3_stmt *st, struct state_feedback *f)
{
    f->id = text_column(b, st, C_ID);
    f->owner = text_column(b, st, C_OWNER);
    f->adapter = text_column(b, st, C_ADAPTER);
    f->status = text_column(b, st, C_STATUS);
    f->phase = text_column(b, st, C_PHASE);
    f->time_ns = sqlite3_column_int64(st, C_TIME);
    f->version_from = (uint64_t)sqlite3_column_int64(st, C_FROM);
    f->version_to = (uint64_t)sqlite3_column_int64(st, C_TO);
    f->items_json = text_column(b, st, C_ITEMS);
    f->settings_json = text_column(b, st, C_SETTINGS);
    f->metrics_json = block_text(b, st, C_METRICS);
    f->timing_json = block_text(b, st, C_TIMING);
    f->error_code = (int32_t)sqlite3_column_int64(st, C_CODE);
    f->error = block_text(b, st, C_ERROR);
}

/* The names, appended to the block; `names` stays null while measuring. */
static int fill_names(struct state *s, struct block *b, int64_t seq, const char **names, uint32_t *out_n,
                      struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    uint32_t n = 0;
    int rc = db_prepare(s, "SELECT rollout FROM feedback_rollouts WHERE feedback = ? ORDER BY position", "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "i", seq);
    }
    while (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got <= 0) {
            rc = got == 0 ? 0 : err != NULL ? err->code : CLAAS_ERR_INTERNAL;
            break;
        }
        const char *name = text_column(b, st, 0);
        if (names != NULL) {
            names[n] = name;
        }
        n++;
    }
    sqlite3_finalize(st);
    if (rc == 0) {
        *out_n = n;
    }
    return rc;
}

static int row_read(struct state *s, sqlite3_stmt *st, struct state_feedback **out, struct claas_error *err)
{
    struct state_feedback scratch = { 0 };
    struct block b = { 0 };
    uint32_t n = 0;
    int64_t seq = sqlite3_column_int64(st, C_SEQ);
    (void)block_take(&b, NULL, sizeof scratch);
    fill(&b, st, &scratch);
    int rc = fill_names(s, &b, seq, NULL, &n, err);
    if (rc != 0) {
        return rc;
    }
    (void)block_take(&b, NULL, n * sizeof *scratch.rollouts);
    b.data = calloc(1, b.used + 16 * (size_t)(n + 1)); /* the names are laid out behind their array this time */
    if (b.data == NULL) {
        return err_oom(err, "a feedback record");
    }
    b.used = 0;
    struct state_feedback *f = block_take(&b, NULL, sizeof *f);
    fill(&b, st, f);
    const char **names = block_take(&b, NULL, n * sizeof *names);
    rc = fill_names(s, &b, seq, names, &n, err);
    if (rc != 0) {
        free(f);
        return rc;
    }
    f->rollouts = names;
    f->n_rollouts = n;
    *out = f;
    return 0;
}

void state_feedback_free(struct state_feedback *f)
{
    free(f); /* the first thing in its block */
}

int state_feedback_get(struct state *s, const char *id, const char *owner, struct state_feedback **out,
                       struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS " FROM feedback WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)", "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "tt", id, owner);
    }
    if (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got > 0) {
            rc = row_read(s, st, out, err);
        } else if (got == 0) {
            rc = err_set(err, CLAAS_ERR_NOT_FOUND, "id", "there is no feedback record '%s'", id);
        } else {
            rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

void state_feedbacks_clear(struct state_feedbacks *list)
{
    for (size_t i = 0; i < list->n; i++) {
        state_feedback_free(list->at[i]);
    }
    free(list->at);
    *list = (struct state_feedbacks){ 0 };
}

static int page_read(struct state *s, sqlite3_stmt *st, uint32_t limit, struct state_feedbacks *page,
                     struct claas_error *err)
{
    uint64_t last = 0;
    for (;;) {
        int got = db_step(s, st, "read", err);
        if (got < 0) {
            return err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
        if (got == 0) {
            return 0;
        }
        if (page->n == limit) {
            page->next = last;
            return 0;
        }
        int rc = row_read(s, st, &page->at[page->n], err);
        if (rc != 0) {
            return rc;
        }
        page->n++;
        last = (uint64_t)sqlite3_column_int64(st, C_SEQ);
    }
}

int state_feedback_list(struct state *s, const char *adapter, const char *owner, uint64_t before, uint32_t limit,
                        struct state_feedbacks *out, struct claas_error *err)
{
    if (limit < 1 || limit > 1000) {
        return err_set(err, CLAAS_ERR_INVALID, "limit", "cannot list %u records: 1 to 1000 fit on a page", limit);
    }
    sqlite3_stmt *st = NULL;
    int64_t total = 0;
    struct state_feedbacks page = { .at = mem_array(limit, sizeof *page.at) };
    if (page.at == NULL) {
        return err_oom(err, "a list of feedback records");
    }
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS " FROM feedback WHERE (?1 IS NULL OR adapter = ?1)"
                           " AND (?2 IS NULL OR owner = ?2) AND (?3 = 0 OR seq < ?3) ORDER BY seq DESC LIMIT ?4",
                        "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "ttui", adapter, owner, before, (int64_t)limit + 1);
    }
    if (rc == 0) {
        rc = page_read(s, st, limit, &page, err);
    }
    sqlite3_finalize(st);
    if (rc == 0) {
        rc = db_number(s, "count", 0, &total, err,
                       "SELECT count(*) FROM feedback WHERE (?1 IS NULL OR adapter = ?1) AND (?2 IS NULL OR owner = ?2)",
                       "tt", adapter, owner);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    if (rc != 0) {
        state_feedbacks_clear(&page);
        return rc;
    }
    page.total = (uint64_t)total;
    *out = page;
    return 0;
}
