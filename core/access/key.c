/* SPDX-License-Identifier: MIT */
/* Keys as texts: making them, taking them apart, rights, prefixes. */
#include "config.h"

#include "access/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "base/utf8.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t right;
} rights_table[] = { { "chat", ACCESS_CHAT }, { "feedback", ACCESS_FEEDBACK }, { "admin", ACCESS_ADMIN } };
enum { N_RIGHTS = sizeof rights_table / sizeof *rights_table };

int access_rights_parse(const char *text, uint32_t *out, struct claas_error *err)
{
    uint32_t rights = 0;
    for (const char *at = text;; at++) {
        size_t n = strcspn(at, ",");
        size_t i = 0;
        while (i < N_RIGHTS && (strlen(rights_table[i].name) != n || memcmp(rights_table[i].name, at, n) != 0)) {
            i++;
        }
        if (i == N_RIGHTS) {
            return err_set(err, CLAAS_ERR_INVALID, "rights", "'%.40s' is no list of rights, such as chat,feedback or admin",
                           text);
        }
        rights |= rights_table[i].right;
        at += n;
        if (!*at) {
            break;
        }
    }
    *out = rights;
    return 0;
}

void access_rights_format(uint32_t rights, char out[ACCESS_RIGHTS_CAP])
{
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < N_RIGHTS; i++) {
        if (rights & rights_table[i].right) {
            n += (size_t)snprintf(out + n, ACCESS_RIGHTS_CAP - n, "%s%s", n ? "," : "", rights_table[i].name);
        }
    }
}

int access_has(const struct access_caller *c, uint32_t right)
{
    return (c->rights & (right | ACCESS_ADMIN)) != 0;
}

int access_below(const char *prefix, const char *adapter)
{
    size_t n = strlen(prefix);
    return n == 0 || (strncmp(prefix, adapter, n) == 0 && (adapter[n] == '/' || adapter[n] == '\0'));
}

int access_owns(const struct access_caller *c, const char *adapter)
{
    return access_below(c->prefix, adapter);
}

const char *access_sees(const struct access_caller *c)
{
    return c->rights & ACCESS_ADMIN ? NULL : c->key;
}

static int is_hex(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") >= n;
}

int token_split(const char *token, char id[STATE_KEY_ID_CAP], const char **secret)
{
    if (strncmp(token, "claas_", 6) != 0 || strlen(token) != 6 + KEY_ID_DIGITS + 1 + KEY_SECRET_DIGITS ||
        !is_hex(token + 6, KEY_ID_DIGITS) || token[6 + KEY_ID_DIGITS] != '_' ||
        !is_hex(token + 7 + KEY_ID_DIGITS, KEY_SECRET_DIGITS)) {
        return 0;
    }
    memcpy(id, token + 6, KEY_ID_DIGITS);
    id[KEY_ID_DIGITS] = '\0';
    *secret = token + 7 + KEY_ID_DIGITS;
    return 1;
}

/* One to eight segments, as ids of adapters have them. */
static int prefix_check(const char *prefix, size_t n, struct claas_error *err)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    size_t run = 0;
    for (size_t i = 0; i <= n; i++) {
        int ends = i == n || prefix[i] == '/';
        int good = ends ? run > 0 : run == 0 ? strchr(first, prefix[i]) != NULL
                                             : strchr(first, prefix[i]) || strchr("._-", prefix[i]);
        if (!good || run > 64 || n >= STATE_KEY_PREFIX_CAP) {
            return err_set(err, CLAAS_ERR_INVALID, "prefix",
                           "'%.80s' is no prefix of adapters: names of letters, digits, '.', '_' and '-' with '/' between",
                           prefix);
        }
        run = ends ? 0 : run + 1;
    }
    return 0;
}

static int key_check(const struct access_key *k, size_t n_prefix, struct claas_error *err)
{
    size_t n = strlen(k->name);
    if (n == 0 || n >= STATE_KEY_NAME_CAP || !utf8_valid(k->name, n)) {
        return err_set(err, CLAAS_ERR_INVALID, "name", "a key needs a name of 1 to 100 bytes in UTF-8");
    }
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)k->name[i] < 0x20 || k->name[i] == 0x7F) {
            return err_set(err, CLAAS_ERR_INVALID, "name", "the name of a key must not have control characters");
        }
    }
    if (k->requests_a_minute < 0 || k->steps_an_hour < 0 || k->bytes_a_day < 0 || k->lasts_ns < 0) {
        return err_set(err, CLAAS_ERR_INVALID, "quota", "quotas and lifetimes of keys are not negative");
    }
    if (n_prefix && (k->rights & ACCESS_ADMIN)) {
        return err_set(err, CLAAS_ERR_INVALID, "prefix", "an admin's key has no prefix: it may do everything");
    }
    return n_prefix ? prefix_check(k->prefix, n_prefix, err) : 0;
}

int access_key_make(struct state *s, const struct access_key *k, char id[STATE_KEY_ID_CAP],
                    char token[ACCESS_TOKEN_CAP], struct claas_error *err)
{
    char secret[KEY_SECRET_DIGITS + 1];
    char prefix[STATE_KEY_PREFIX_CAP] = "";
    size_t n = strlen(k->prefix);
    n -= n > 0 && k->prefix[n - 1] == '/';
    int rc = key_check(k, n, err);
    if (rc) {
        return rc;
    }
    memcpy(prefix, k->prefix, n);
    char fresh[STATE_KEY_ID_CAP];
    if (rng_hex(fresh, KEY_ID_DIGITS) || rng_hex(secret, KEY_SECRET_DIGITS)) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot make a key: no random numbers");
    }
    int64_t now = clock_real_ns();
    struct state_key row = {
        .id = fresh, .name = k->name, .prefix = prefix, .rights = k->rights, .created_ns = now,
        .expires_ns = k->lasts_ns ? now + k->lasts_ns : 0, .requests_a_minute = k->requests_a_minute,
        .steps_an_hour = k->steps_an_hour, .bytes_a_day = k->bytes_a_day,
    };
    rc = sha256_of(secret, KEY_SECRET_DIGITS, &row.hash, err);
    rc = rc ? rc : state_key_add(s, &row, err);
    if (rc == 0) {
        memcpy(id, fresh, sizeof fresh);
        (void)snprintf(token, ACCESS_TOKEN_CAP, "claas_%s_%s", fresh, secret);
    }
    OPENSSL_cleanse(secret, sizeof secret);
    return rc;
}
