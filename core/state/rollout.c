/* SPDX-License-Identifier: MIT */
/* Rollouts: what was asked and answered, exactly; bounded by count and age, except those that feedback names. */
#include "config.h"

#include "state/db.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define COLUMNS \
    "id, kind, owner, model, adapter, version, serve, time_ns, hash, finish, end_tokens, n_prompt, n_response, rated," \
    " sampler, text, visible, prompt, end_user"

enum { C_ID, C_KIND, C_OWNER, C_MODEL, C_ADAPTER, C_VERSION, C_SERVE, C_TIME, C_HASH, C_FINISH, C_END, C_N_PROMPT,
       C_N_RESPONSE, C_RATED, C_SAMPLER, C_TEXT, C_VISIBLE, C_PROMPT, C_USER, C_MESSAGES, C_PROMPT_IDS, C_RESPONSE_IDS,
       C_LOGPROBS };

int rows_recount(struct state *s, struct claas_error *err)
{
    int64_t unrated = 0;
    int64_t rated = 0;
    int64_t feedback = 0;
    int rc = db_number(s, "count", 0, &unrated, err, "SELECT count(*) FROM rollouts WHERE rated = 0", "");
    if (rc == 0) {
        rc = db_number(s, "count", 0, &rated, err, "SELECT count(*) FROM rollouts WHERE rated > 0", "");
    }
    if (rc == 0) {
        rc = db_number(s, "count", 0, &feedback, err, "SELECT count(*) FROM feedback", "");
    }
    if (rc == 0) {
        s->n = (struct counts){ (uint64_t)unrated, (uint64_t)rated, (uint64_t)feedback };
    }
    return rc;
}

int rollouts_prune(struct state *s, int64_t now_ns, struct claas_error *err)
{
    int rc = db_run(s, "prune", err, "DELETE FROM rollouts WHERE rated = 0 AND time_ns < ?", "i",
                    now_ns - s->options.rollouts_age_ns);
    if (rc != 0) {
        return rc;
    }
    s->n.unrated -= (uint64_t)sqlite3_changes64(s->db);
    if (s->n.unrated <= s->options.rollouts_max) {
        return 0;
    }
    rc = db_run(s, "prune", err,
                "DELETE FROM rollouts WHERE seq IN (SELECT seq FROM rollouts WHERE rated = 0 ORDER BY seq LIMIT ?)",
                "u", s->n.unrated - s->options.rollouts_max);
    if (rc == 0) {
        s->n.unrated -= (uint64_t)sqlite3_changes64(s->db);
    }
    return rc;
}

static int insert(struct state *s, const struct state_rollout *r, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    static const int32_t none;
    int rc = db_prepare(s, "INSERT INTO rollouts (" COLUMNS ", messages, prompt_ids, response_ids, logprobs) VALUES"
                           " (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                        "write to", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "write to", err, "tttttubibtiiiittttttbbb", r->id, r->kind, r->owner, r->model, r->adapter,
                     r->version, r->serve.b, sizeof r->serve.b, r->time_ns, r->hash.b, sizeof r->hash.b, r->finish,
                     (int64_t)r->end_tokens, (int64_t)r->n_prompt, (int64_t)r->n_response, (int64_t)0,
                     r->sampler_json, r->text, r->visible, r->prompt, r->user == NULL ? "" : r->user,
                     r->messages_json,
                     r->n_prompt == 0 ? &none : r->prompt_ids, (size_t)r->n_prompt * sizeof *r->prompt_ids,
                     r->n_response == 0 ? &none : r->response_ids, (size_t)r->n_response * sizeof *r->response_ids,
                     r->logprobs, (size_t)r->n_response * sizeof *r->logprobs);
    }
    if (rc == 0 && db_step(s, st, "write to", err) < 0) {
        rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        if (sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_UNIQUE) {
            rc = err_set(err, CLAAS_ERR_CONFLICT, "id", "cannot record completion '%s': there is one of this id", r->id);
        }
    }
    sqlite3_finalize(st);
    return rc;
}

int state_rollout_add(struct state *s, const struct state_rollout *r, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    struct counts before = s->n;
    int rc = db_begin(s, "write to", err);
    if (rc == 0) {
        rc = insert(s, r, err);
        if (rc == 0) {
            s->n.unrated++;
            rc = rollouts_prune(s, clock_real_ns(), err);
        }
        rc = db_end(s, rc, "write to", err);
    }
    if (rc != 0) {
        s->n = before;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

static void digest_column(sqlite3_stmt *st, int column, struct claas_digest *out)
{
    const void *data = sqlite3_column_blob(st, column);
    if (data != NULL && sqlite3_column_bytes(st, column) == (int)sizeof out->b) {
        memcpy(out->b, data, sizeof out->b);
    }
}

/* A text column that is never null. */
static const char *text_column(struct block *b, sqlite3_stmt *st, int column)
{
    const char *text = block_text(b, st, column);
    return text == NULL ? "" : text;
}

static void fill(struct block *b, sqlite3_stmt *st, int whole, struct state_rollout *r)
{
    r->id = text_column(b, st, C_ID);
    r->kind = text_column(b, st, C_KIND);
    r->owner = text_column(b, st, C_OWNER);
    r->model = text_column(b, st, C_MODEL);
    r->adapter = text_column(b, st, C_ADAPTER);
    r->version = (uint64_t)sqlite3_column_int64(st, C_VERSION);
    digest_column(st, C_SERVE, &r->serve);
    r->time_ns = sqlite3_column_int64(st, C_TIME);
    digest_column(st, C_HASH, &r->hash);
    r->finish = text_column(b, st, C_FINISH);
    r->end_tokens = (uint32_t)sqlite3_column_int64(st, C_END);
    r->n_prompt = (uint32_t)sqlite3_column_int64(st, C_N_PROMPT);
    r->n_response = (uint32_t)sqlite3_column_int64(st, C_N_RESPONSE);
    r->rated = (uint32_t)sqlite3_column_int64(st, C_RATED);
    r->sampler_json = text_column(b, st, C_SAMPLER);
    r->text = text_column(b, st, C_TEXT);
    r->visible = text_column(b, st, C_VISIBLE);
    r->prompt = block_text(b, st, C_PROMPT);
    r->user = text_column(b, st, C_USER);
    if (whole) {
        size_t n;
        r->messages_json = block_text(b, st, C_MESSAGES);
        r->prompt_ids = block_bytes(b, st, C_PROMPT_IDS, &n);
        r->response_ids = block_bytes(b, st, C_RESPONSE_IDS, &n);
        r->logprobs = block_bytes(b, st, C_LOGPROBS, &n);
    }
}

/* The arrays must be as long as the counts say, before anybody walks along them. */
static int sizes_check(struct state *s, sqlite3_stmt *st, struct claas_error *err)
{
    int64_t n_prompt = sqlite3_column_int64(st, C_N_PROMPT);
    int64_t n_response = sqlite3_column_int64(st, C_N_RESPONSE);
    int64_t end = sqlite3_column_int64(st, C_END);
    int ok = n_prompt >= 0 && n_response >= 0 && end >= 0 && end <= n_response &&
             sqlite3_column_bytes(st, C_PROMPT_IDS) == n_prompt * (int64_t)sizeof(int32_t) &&
             sqlite3_column_bytes(st, C_RESPONSE_IDS) == n_response * (int64_t)sizeof(int32_t) &&
             (sqlite3_column_type(st, C_LOGPROBS) == SQLITE_NULL ||
              sqlite3_column_bytes(st, C_LOGPROBS) == n_response * (int64_t)sizeof(float));
    return ok ? 0
              : err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot read completion '%s' from '%s': its sizes do not agree",
                        (const char *)sqlite3_column_text(st, C_ID), s->path);
}

static int row_read(struct state *s, sqlite3_stmt *st, int whole, struct state_rollout **out, struct claas_error *err)
{
    if (whole) {
        int rc = sizes_check(s, st, err);
        if (rc != 0) {
            return rc;
        }
    }
    struct state_rollout scratch = { 0 };
    struct block b = { 0 };
    (void)block_take(&b, NULL, sizeof scratch);
    fill(&b, st, whole, &scratch);
    b.data = calloc(1, b.used);
    if (b.data == NULL) {
        return err_oom(err, "a rollout");
    }
    b.used = 0;
    struct state_rollout *r = block_take(&b, NULL, sizeof *r);
    fill(&b, st, whole, r);
    *out = r;
    return 0;
}

void state_rollout_free(struct state_rollout *r)
{
    free(r); /* the first thing in its block */
}

#define WHOLE "SELECT " COLUMNS ", messages, prompt_ids, response_ids, logprobs FROM rollouts"

int state_rollout_get(struct state *s, const char *id, const char *owner, struct state_rollout **out,
                      struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, WHOLE " WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)", "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "tt", id, owner);
    }
    if (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got > 0) {
            rc = row_read(s, st, 1, out, err);
        } else if (got == 0) {
            rc = err_set(err, CLAAS_ERR_NOT_FOUND, "completion_id", "there is no completion '%s'", id);
        } else {
            rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_rollout_find(struct state *s, const struct claas_digest *hash, const char *adapter, const char *owner,
                       struct state_rollout **out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, WHOLE " WHERE hash = ?1 AND adapter = ?2 AND (?3 IS NULL OR owner = ?3)"
                                 " ORDER BY seq DESC LIMIT 1",
                        "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "btt", hash->b, sizeof hash->b, adapter, owner);
    }
    if (rc == 0) {
        int got = db_step(s, st, "read", err);
        if (got > 0) {
            rc = row_read(s, st, 1, out, err);
        } else if (got == 0) {
            rc = err_set(err, CLAAS_ERR_NOT_FOUND, "response", "there is no answer of %s with this text",
                         adapter[0] == '\0' ? "the base model" : adapter);
        } else {
            rc = err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* ---- lists ------------------------------------------------------------------------------------------------------------ */

void state_rollouts_clear(struct state_rollouts *list)
{
    for (size_t i = 0; i < list->n; i++) {
        state_rollout_free(list->at[i]);
    }
    free(list->at);
    *list = (struct state_rollouts){ 0 };
}

static int page_read(struct state *s, sqlite3_stmt *st, uint32_t limit, struct state_rollouts *page,
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
        int rc = row_read(s, st, 0, &page->at[page->n], err);
        if (rc != 0) {
            return rc;
        }
        page->n++;
        last = (uint64_t)sqlite3_column_int64(st, C_USER + 1);
    }
}

int state_rollout_list(struct state *s, const char *adapter, const char *owner, uint64_t before, uint32_t limit,
                       struct state_rollouts *out, struct claas_error *err)
{
    if (limit < 1 || limit > 1000) {
        return err_set(err, CLAAS_ERR_INVALID, "limit", "cannot list %u completions: 1 to 1000 fit on a page", limit);
    }
    sqlite3_stmt *st = NULL;
    struct state_rollouts page = { .at = mem_array(limit, sizeof *page.at) };
    if (page.at == NULL) {
        return err_oom(err, "a list of completions");
    }
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS ", seq FROM rollouts WHERE (?1 IS NULL OR adapter = ?1)"
                           " AND (?2 IS NULL OR owner = ?2) AND (?3 = 0 OR seq < ?3) ORDER BY seq DESC LIMIT ?4",
                        "read", &st, err);
    if (rc == 0) {
        rc = db_bind(s, st, "read", err, "ttui", adapter, owner, before, (int64_t)limit + 1);
    }
    if (rc == 0) {
        rc = page_read(s, st, limit, &page, err);
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    if (rc != 0) {
        state_rollouts_clear(&page);
        return rc;
    }
    *out = page;
    return 0;
}

int state_count(struct state *s, struct state_counts *out, struct claas_error *err)
{
    (void)err;
    (void)pthread_mutex_lock(&s->mutex);
    *out = (struct state_counts){ .rollouts = s->n.unrated + s->n.rated, .rated = s->n.rated, .feedback = s->n.feedback };
    (void)pthread_mutex_unlock(&s->mutex);
    return 0;
}
