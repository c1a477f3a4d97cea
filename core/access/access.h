/* SPDX-License-Identifier: MIT */
/* Who may do what: API keys with rights, a prefix for adapters, and quotas. Keys live in the state database; they are
 * read again when somebody else has written there, so that keys can be made and revoked while claasd runs.
 *
 * Any thread may call any function. */
#ifndef ACCESS_ACCESS_H
#define ACCESS_ACCESS_H

#include "state/state.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum { ACCESS_CHAT = 1, ACCESS_FEEDBACK = 2, ACCESS_ADMIN = 4 };

/* A text of rights, "chat,feedback"; admin holds the others. INVALID for anything else. */
int access_rights_parse(const char *text, uint32_t *out, struct claas_error *err);
#define ACCESS_RIGHTS_CAP 32
void access_rights_format(uint32_t rights, char out[ACCESS_RIGHTS_CAP]);

struct access_caller {
    char key[STATE_ID_CAP];            /* the key's id; "" where no key was needed; "uid:1000" on a Unix socket */
    char prefix[STATE_KEY_PREFIX_CAP]; /* adapters below it are its own; "" = all */
    uint32_t rights;
};

/* 1 if the caller has this right (one bit). */
int access_has(const struct access_caller *c, uint32_t right);
/* 1 if the adapter's id is the caller's prefix or below it. */
int access_owns(const struct access_caller *c, const char *adapter);
int access_below(const char *prefix, const char *adapter);
/* Whose records the caller sees: null = anybody's. */
const char *access_sees(const struct access_caller *c);

/* ---- making keys ------------------------------------------------------------------------------ */

struct access_key {
    const char *name;
    const char *prefix;  /* "" = all; a trailing slash may stand */
    uint32_t rights;
    int64_t lasts_ns;    /* 0 = for ever */
    int64_t requests_a_minute, steps_an_hour, bytes_a_day;
};

#define ACCESS_TOKEN_CAP 96
/* Stores a new key; `token` is what the client sends, and cannot be had again. */
int access_key_make(struct state *s, const struct access_key *k, char id[STATE_KEY_ID_CAP],
                    char token[ACCESS_TOKEN_CAP], struct claas_error *err);

/* ---- checking --------------------------------------------------------------------------------- */

struct access;

enum access_mode {
    ACCESS_AUTO, /* nobody needs a key until the first one has been made */
    ACCESS_ON,
    ACCESS_OFF,  /* nobody needs one */
};

/* A connection of its own to the database in `dir`; `state` (borrowed) takes what keys have used. */
int access_open(const char *dir, struct state *state, enum access_mode mode, struct access **out,
                struct claas_error *err);
/* Writes what keys have used. Null is fine. */
void access_close(struct access *a);

/* Who sent this token (null: none was sent), counting one request. UNAUTHORISED: none, or one that is not good;
 * EXHAUSTED: a quota is used up, until retry_after_ms. */
int access_admit(struct access *a, const char *token, struct access_caller *out, struct claas_error *err);
/* Counts one step, or EXHAUSTED. Callers without a key have no quotas. */
int access_step(struct access *a, const struct access_caller *c, struct claas_error *err);
/* Takes a counted step back: nothing new was begun. */
void access_step_back(struct access *a, const struct access_caller *c);
/* Counts bytes received and sent; those over the quota make the next request fail. */
void access_bytes(struct access *a, const struct access_caller *c, uint64_t bytes);

#endif
