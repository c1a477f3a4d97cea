/* SPDX-License-Identifier: MIT */
/* Ids and keys: what may be one, how ids are written in keys, names of files. */
#include "config.h"

#include "internal.h"

#include "base/err.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SEGMENTS_MAX = 8, SEGMENT_MAX = 64, FILE_NAME_MAX = 200, FILE_SEGMENTS_MAX = 4 };

static int alnum_ok(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static int char_ok(char c)
{
    return alnum_ok(c) || c == '.' || c == '_' || c == '-';
}

/* 1 if s is 1 to segments_max segments of at most segment_max bytes, each beginning with a letter
 * or digit. */
static int path_ok(const char *s, size_t bytes_max, int segments_max, size_t segment_max,
                   int any_first)
{
    size_t total = strnlen(s, bytes_max + 1);
    if (total > bytes_max) {
        return 0;
    }
    for (int segments = 1; segments <= segments_max; segments++) {
        size_t n = 0;
        while (char_ok(s[n])) {
            n++;
        }
        if (n == 0 || n > segment_max || !(alnum_ok(s[0]) || (any_first && s[0] != '.'))) {
            return 0;
        }
        if (s[n] != '/') {
            return s[n] == '\0';
        }
        s += n + 1;
    }
    return 0;
}

int adapter_id_check(const char *id, struct claas_error *err)
{
    if (id && path_ok(id, ADAPTER_ID_CAP - 1, SEGMENTS_MAX, SEGMENT_MAX, 0)) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_INVALID, "lora_id",
                   "'%.80s' is no adapter id: 1 to 8 segments joined by '/', each beginning with a "
                   "letter or digit, of at "
                   "most 64 letters, digits and . _ -, 200 bytes in all",
                   id ? id : "");
}

/* Length of s without an ending @digits, or n. */
static size_t cut_number(const char *s, size_t n)
{
    size_t at = n;
    while (at > 0 && s[at - 1] >= '0' && s[at - 1] <= '9') {
        at--;
    }
    return at > 1 && at < n && s[at - 1] == '@' ? at - 1 : n;
}

static size_t cut_suffix(const char *s, size_t n, const char *suffix)
{
    size_t m = strlen(suffix);
    return n > m && memcmp(s + n - m, suffix, m) == 0 ? n - m : n;
}

int adapter_id_strip(const char *id, char out[ADAPTER_ID_CAP], struct claas_error *err)
{
    const char *s = id ? id : "";
    s += strspn(s, "/");
    size_t n = strlen(s);
    while (n > 0 && s[n - 1] == '/') {
        n--;
    }
    for (size_t before = 0; before != n;) {
        before = n;
        n = cut_number(s, n);
        n = cut_suffix(s, n, "-latest");
        n = cut_suffix(s, n, "-init");
    }
    char copy[ADAPTER_ID_CAP] = "";
    if (n < sizeof copy) {
        memcpy(copy, s, n);
    }
    if (adapter_id_check(copy, NULL)) {
        return adapter_id_check(n < sizeof copy ? copy : s, err);
    }
    memcpy(out, copy, sizeof copy);
    return 0;
}

int name_check_file(const char *name, struct claas_error *err)
{
    if (name && path_ok(name, FILE_NAME_MAX, FILE_SEGMENTS_MAX, FILE_NAME_MAX, 1)) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_INVALID, "name",
                   "'%.80s' cannot be the name of an adapter's file", name ? name : "");
}

int name_word_ok(const char *s, size_t cap)
{
    size_t n = s ? strnlen(s, cap) : 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] <= ' ' || s[i] > '~') {
            return 0;
        }
    }
    return n > 0 && n < cap;
}

void key_flat(struct buf *out, const char *id)
{
    for (; *id; id++) {
        buf_addc(out, *id == '/' ? '~' : *id);
    }
}

static size_t flat_to(char *out, const char *id)
{
    size_t n = 0;
    for (; id[n]; n++) {
        out[n] = id[n] == '/' ? '~' : id[n];
    }
    return n;
}

int key_unflat(const char *flat, size_t n, char out[ADAPTER_ID_CAP])
{
    char id[ADAPTER_ID_CAP];
    if (n >= sizeof id) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        id[i] = flat[i] == '~' ? '/' : flat[i];
    }
    id[n] = '\0';
    if (adapter_id_check(id, NULL)) {
        return -1;
    }
    memcpy(out, id, n + 1);
    return 0;
}

void key_of(char out[KEY_CAP], const char *prefix, const char *id, const char *tail)
{
    char flat[ADAPTER_ID_CAP];
    flat[flat_to(flat, id)] = '\0'; /* ids are checked where they come in */
    (void)snprintf(out, KEY_CAP, "%s%s%s", prefix, flat, tail); /* fits: 9 + 200 + tail */
}

void key_log(char out[KEY_CAP], const char *id, uint64_t n)
{
    char tail[32];
    (void)snprintf(tail, sizeof tail, "/%08" PRIu64, n); /* fits */
    key_of(out, "log/", id, tail);
}

void key_blob(char out[KEY_CAP], const struct claas_digest *sha256)
{
    char hex[SHA256_HEX];
    sha256_hex(sha256, hex);
    (void)snprintf(out, KEY_CAP, "blobs/%.2s/%s", hex, hex); /* fits */
}

int key_blob_parse(const char *key, struct claas_digest *out)
{
    static const char prefix[] = "blobs/";
    size_t n = sizeof prefix - 1;
    return strncmp(key, prefix, n) == 0 && strlen(key) == n + 3 + SHA256_HEX - 1 &&
           key[n + 2] == '/' && memcmp(key + n, key + n + 3, 2) == 0 &&
           sha256_parse(key + n + 3, out);
}

void adapter_serving_name(const struct claas_version *v, char out[ADAPTER_SERVING_CAP])
{
    size_t n = 0;
    for (const char *s = v->label; *s && *s != '@' && n < ADAPTER_ID_CAP - 1; s++) {
        if (char_ok(*s)) {
            out[n++] = *s;
        } else if (n > 0 && out[n - 1] != '-') {
            out[n++] = '-';
        }
    }
    char hex[SHA256_HEX];
    sha256_hex(&v->serve, hex);
    (void)snprintf(out + n, ADAPTER_SERVING_CAP - n, "-%.12s", hex); /* fits */
}

void adapter_export_name(const char *id, char *out, size_t cap)
{
    size_t n = 0;
    for (; *id && n + sizeof "__.zip" <= cap; id++) {
        if (*id == '/') {
            out[n++] = '_';
            out[n++] = '_';
        } else {
            out[n++] = char_ok(*id) ? *id : '_';
        }
    }
    (void)snprintf(out + n, cap - n, ".zip"); /* the loop left room */
}
