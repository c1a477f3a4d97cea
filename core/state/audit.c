/* SPDX-License-Identifier: MIT */
/* The audit: who made which version, and what was refused and why. Rows are added and dropped by age, never changed. */
#include "config.h"

#include "state/db.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int audit_prune(struct state *s, int64_t now_ns, struct claas_error *err)
{
    return db_run(s, "prune", err, "DELETE FROM audit WHERE time_ns < ?", "i", now_ns - s->options.audit_age_ns);
}

int audit_write(struct state *s, const struct state_audit *a, struct claas_error *err)
{
    return db_run(s, "write to", err,
                  "INSERT INTO audit (time_ns, owner, action, adapter, job, version, code, reason)"
                  " VALUES (?,?,?,?,?,?,?,?)",
                  "ittttuit", a->time_ns == 0 ? clock_real_ns() : a->time_ns, a->owner, a->action, a->adapter, a->job,
                  a->version, (int64_t)a->code, a->reason);
}

int state_audit_add(struct state *s, const struct state_audit *a, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_begin(s, "write to", err);
    if (rc == 0) {
        rc = audit_write(s, a, err);
        if (rc == 0) {
            rc = audit_prune(s, clock_real_ns(), err);
        }
        rc = db_end(s, rc, "write to", err);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

static struct state_audit *row_fill(struct block *b, sqlite3_stmt *st)
{
    struct state_audit row = { .time_ns = sqlite3_column_int64(st, 0),
                               .version = (uint64_t)sqlite3_column_int64(st, 5),
                               .code = (int32_t)sqlite3_column_int64(st, 6),
                               .seq = (uint64_t)sqlite3_column_int64(st, 8) };
    struct state_audit *out = block_take(b, NULL, sizeof row);
    row.owner = block_text(b, st, 1);
    row.action = block_text(b, st, 2);
    row.adapter = block_text(b, st, 3);
    row.job = block_text(b, st, 4);
    row.reason = block_text(b, st, 7);
    if (out != NULL) {
        *out = row;
    }
    return out;
}

static int row_read(sqlite3_stmt *st, struct state_audit **out, struct claas_error *err)
{
    struct block b = { 0 };
    (void)row_fill(&b, st);
    b.data = calloc(1, b.used + 16);
    if (b.data == NULL) {
        return err_oom(err, "the audit");
    }
    b.used = 0;
    *out = row_fill(&b, st);
    return 0;
}

void state_audits_clear(struct state_audits *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->at[i]); /* the first thing in its block */
    }
    free(list->at);
    *list = (struct state_audits){ 0 };
}

static int page_read(struct state *s, sqlite3_stmt *st, uint32_t limit, struct state_audits *page,
                     struct claas_error *err)
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

int state_audit_list(struct state *s, const char *owner, const char *adapter, uint64_t before, uint32_t limit,
                     struct state_audits *out, struct claas_error *err)
{
    if (limit < 1 || limit > 1000) {
        return err_set(err, CLAAS_ERR_INVALID, "limit", "cannot list %u rows: 1 to 1000 fit on a page", limit);
    }
    sqlite3_stmt *st = NULL;
    struct state_audits page = { .at = mem_array(limit, sizeof *page.at) };
    if (page.at == NULL) {
        return err_oom(err, "the audit");
    }
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT time_ns, owner, action, adapter, job, version, code, reason, seq FROM audit"
                           " WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR adapter = ?2) AND (?3 = 0 OR seq < ?3)"
                           " ORDER BY seq DESC LIMIT ?4",
                        "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "ttui", owner, adapter, before, (int64_t)limit + 1);
    }
    if (rc == 0) {
        rc = page_read(s, st, limit, &page, err);
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    if (rc != 0) {
        state_audits_clear(&page);
        return rc;
    }
    *out = page;
    return 0;
}

int state_audit_owner(struct state *s, const char *job, char **out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT owner FROM audit WHERE job = ?1 AND job <> '' AND action = 'step' LIMIT 1", "read",
                        &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "t", job);
    }
    if (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got > 0) {
            const char *owner = (const char *)sqlite3_column_text(st, 0);
            char *copy = mem_dup(owner == NULL ? "" : owner, owner == NULL ? 0 : strlen(owner));
            rc = copy == NULL ? err_oom(err, "the audit") : 0;
            *out = copy == NULL ? *out : copy;
        } else if (got == 0) {
            rc = err_set(err, CLAAS_ERR_NOT_FOUND, "job", "the audit tells nothing of job '%s'", job);
        } else {
            rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}
