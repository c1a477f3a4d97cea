/* SPDX-License-Identifier: MIT */
/* Private to core/access. */
#ifndef ACCESS_INTERNAL_H
#define ACCESS_INTERNAL_H

#include "access/access.h"

/* "claas_<id>_<secret>": 12 and 64 hexadecimal digits. The secret is 256 random bits, so one SHA-256 is enough to store
 * it by: slow password hashes make up for secrets that can be guessed, and this one cannot. */
enum { KEY_ID_DIGITS = 12, KEY_SECRET_DIGITS = 64 };

/* Takes a token apart: 1 if it has the form of one; `secret` points into it. */
int token_split(const char *token, char id[STATE_KEY_ID_CAP], const char **secret);

/* A key as it is checked: the record and its counters. */
struct slot {
    struct state_key_row key;
    int64_t minute, minute_requests; /* the minute since 1970, and what came in it */
    int dirty;                       /* the use is not written yet */
};

/* Count, or EXHAUSTED with the time until there is room again. */
int quota_request(struct slot *k, int64_t now_ns, struct claas_error *err);
int quota_step(struct slot *k, int64_t now_ns, struct claas_error *err);
void quota_bytes(struct slot *k, int64_t now_ns, uint64_t bytes);

#endif
