/* SPDX-License-Identifier: MIT */
/* API keys: who may do what, stored by the digest of their secret, with what they have used. */
#include "config.h"

#include "state/db.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

#define COLUMNS \
    "id, name, prefix, rights, hash, created_ns, expires_ns, revoked_ns, requests_a_minute, steps_an_hour," \
    " bytes_a_day, used_ns, hour, hour_steps, day, day_bytes"

enum { C_ID, C_NAME, C_PREFIX, C_RIGHTS, C_HASH, C_CREATED, C_EXPIRES, C_REVOKED, C_REQUESTS, C_STEPS, C_BYTES, C_USED,
       C_HOUR, C_HOUR_STEPS, C_DAY, C_DAY_BYTES };

int state_key_add(struct state *s, const struct state_key *k, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_run(s, "write to", err,
                    "INSERT INTO keys (id, name, prefix, rights, hash, created_ns, expires_ns, requests_a_minute,"
                    " steps_an_hour, bytes_a_day) VALUES (?,?,?,?,?,?,?,?,?,?)",
                    "tttibiiiii", k->id, k->name, k->prefix, (int64_t)k->rights, k->hash.b, sizeof k->hash.b,
                    k->created_ns, k->expires_ns, k->requests_a_minute, k->steps_an_hour, k->bytes_a_day);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_key_revoke(struct state *s, const char *id, int64_t now_ns, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_run(s, "write to", err,
                    "UPDATE keys SET revoked_ns = CASE revoked_ns WHEN 0 THEN ?2 ELSE revoked_ns END WHERE id = ?1",
                    "ti", id, now_ns);
    if (rc == 0 && sqlite3_changes(s->db) == 0) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "id", "there is no key '%s'", id);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

int state_key_used(struct state *s, const char *id, const struct state_key_use *u, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_run(s, "write to", err,
                    "UPDATE keys SET used_ns = ?2, hour = ?3, hour_steps = ?4, day = ?5, day_bytes = ?6 WHERE id = ?1",
                    "tiiiii", id, u->used_ns, u->hour, u->hour_steps, u->day, u->day_bytes);
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

void state_keys_clear(struct state_keys *list)
{
    free(list->at);
    *list = (struct state_keys){ 0 };
}

static int text_copy(char *out, size_t cap, sqlite3_stmt *st, int column)
{
    const char *text = (const char *)sqlite3_column_text(st, column);
    size_t n = text ? strlen(text) : cap;
    if (n >= cap) {
        return -1;
    }
    memcpy(out, text, n + 1);
    return 0;
}

static int row_read(struct state *s, sqlite3_stmt *st, struct state_key_row *out, struct claas_error *err)
{
    struct state_key_row r = { 0 };
    const void *hash = sqlite3_column_blob(st, C_HASH);
    if (text_copy(r.id, sizeof r.id, st, C_ID) || text_copy(r.name, sizeof r.name, st, C_NAME) ||
        text_copy(r.prefix, sizeof r.prefix, st, C_PREFIX) || !hash ||
        sqlite3_column_bytes(st, C_HASH) != (int)sizeof r.hash.b) {
        return err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot read the keys in '%s': a record is damaged",
                       s->path);
    }
    memcpy(r.hash.b, hash, sizeof r.hash.b);
    r.rights = (uint32_t)sqlite3_column_int64(st, C_RIGHTS);
    r.created_ns = sqlite3_column_int64(st, C_CREATED);
    r.expires_ns = sqlite3_column_int64(st, C_EXPIRES);
    r.revoked_ns = sqlite3_column_int64(st, C_REVOKED);
    r.requests_a_minute = sqlite3_column_int64(st, C_REQUESTS);
    r.steps_an_hour = sqlite3_column_int64(st, C_STEPS);
    r.bytes_a_day = sqlite3_column_int64(st, C_BYTES);
    r.use = (struct state_key_use){
        .used_ns = sqlite3_column_int64(st, C_USED),
        .hour = sqlite3_column_int64(st, C_HOUR),
        .hour_steps = sqlite3_column_int64(st, C_HOUR_STEPS),
        .day = sqlite3_column_int64(st, C_DAY),
        .day_bytes = sqlite3_column_int64(st, C_DAY_BYTES),
    };
    *out = r;
    return 0;
}

static int rows_read(struct state *s, sqlite3_stmt *st, struct state_keys *list, struct claas_error *err)
{
    size_t cap = 0;
    for (;;) {
        int got = db_step(s, st, "read", err);
        if (got <= 0) {
            return got == 0 ? 0 : err != NULL ? err->code : CLAAS_ERR_INTERNAL;
        }
        if (list->n == cap) {
            cap = cap ? cap * 2 : 16;
            struct state_key_row *grown = reallocarray(list->at, cap, sizeof *grown);
            if (!grown) {
                return err_oom(err, "the list of keys");
            }
            list->at = grown;
        }
        int rc = row_read(s, st, &list->at[list->n], err);
        if (rc) {
            return rc;
        }
        list->n++;
    }
}

int state_key_list(struct state *s, struct state_keys *out, struct claas_error *err)
{
    sqlite3_stmt *st = NULL;
    struct state_keys list = { 0 };
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_prepare(s, "SELECT " COLUMNS " FROM keys ORDER BY id", "read", &st, err);
    if (rc == 0) {
        rc = rows_read(s, st, &list, err);
    }
    sqlite3_finalize(st);
    (void)pthread_mutex_unlock(&s->mutex);
    if (rc) {
        state_keys_clear(&list);
        return rc;
    }
    *out = list;
    return 0;
}

int state_version(struct state *s, int64_t *out, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->mutex);
    int rc = db_number(s, "read", 0, out, err, "PRAGMA data_version", "");
    (void)pthread_mutex_unlock(&s->mutex);
    return rc;
}
