/* SPDX-License-Identifier: MIT */
/* Log entries: the JSON they are written as, and the checks before one is believed. */
#include "config.h"

#include "internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRY_FORMAT = 1 };
#define BYTES_MAX (INT64_C(1) << 53) /* what a JSON number holds exactly */

struct entry_box {
    struct adapter_entry entry; /* first: users get a pointer to this */
    atomic_int refs;
    size_t bytes;
    cJSON *json; /* owns the texts */
    struct claas_file *facts;
    const struct claas_file **files;
    const char **claims;
    char *settings, *metrics;
};

static const char *const kind_names[] = {
    [ADAPTER_CREATE] = "create",   [ADAPTER_STEP] = "step", [ADAPTER_IMPORT] = "import",
    [ADAPTER_RESTORE] = "restore", [ADAPTER_UNDO] = "undo", [ADAPTER_DELETE] = "delete",
};

static const struct {
    uint32_t bit;
    const char *name;
} role_names[] = { { CLAAS_SERVE, "serve" }, { CLAAS_TRAIN, "train" }, { CLAAS_ABOUT, "about" } };

const char *adapter_kind_name(enum adapter_kind kind)
{
    return kind >= ADAPTER_CREATE && kind <= ADAPTER_DELETE ? kind_names[kind] : "unknown";
}

struct adapter_entry *adapter_entry_ref(struct adapter_entry *e)
{
    (void)atomic_fetch_add(&((struct entry_box *)e)->refs, 1);
    return e;
}

void adapter_entry_unref(struct adapter_entry *e)
{
    struct entry_box *box = (struct entry_box *)e;
    if (!box || atomic_fetch_sub(&box->refs, 1) != 1) {
        return;
    }
    cJSON_Delete(box->json);
    free(box->facts);
    free(box->files);
    free(box->claims);
    free(box->settings);
    free(box->metrics);
    free(box);
}

size_t entry_bytes(const struct adapter_entry *e)
{
    return ((const struct entry_box *)e)->bytes;
}

/* ---- digests of a set of files ---- */

static int line_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "role name bytes sha256" of one file, on the heap; roles as the sum of their numbers. */
static char *digest_line(const struct claas_file *f, uint32_t roles)
{
    char hex[SHA256_HEX];
    struct buf b = BUF_INIT;
    sha256_hex(&f->sha256, hex);
    buf_addf(&b, "%u %s %llu %s\n", roles, f->name, (unsigned long long)f->bytes, hex);
    return buf_take(&b);
}

/* SHA-256 over head and the sorted lines of the files that have one of `roles`, written with these
 * roles only. */
static int digest_files(const char *head, uint32_t roles, const struct claas_file *const *files,
                        uint32_t n, struct claas_digest *out, struct claas_error *err)
{
    char **lines = mem_array(n, sizeof *lines);
    struct sha256 *hash = sha256_new();
    int rc = lines && hash ? 0 : err_oom(err, "making a digest");
    size_t n_lines = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (files[i]->roles & roles) {
            lines[n_lines] = digest_line(files[i], files[i]->roles & roles);
            rc = lines[n_lines] ? 0 : err_oom(err, "making a digest");
            n_lines += rc == 0;
        }
    }
    if (rc == 0) {
        qsort(lines, n_lines, sizeof *lines, line_order);
        sha256_add(hash, head, strlen(head));
        for (size_t i = 0; i < n_lines; i++) {
            sha256_add(hash, lines[i], strlen(lines[i]));
        }
        rc = sha256_end(hash, out, err);
        hash = NULL;
    }
    for (size_t i = 0; i < n_lines; i++) {
        free(lines[i]);
    }
    free(lines);
    sha256_free(hash);
    return rc;
}

int adapter_digests(const char *format, const char *base, const struct claas_file *const *files,
                    uint32_t n, struct claas_digest *out_state, struct claas_digest *out_serve,
                    struct claas_error *err)
{
    struct claas_digest state;
    struct claas_digest serve;
    struct buf head = BUF_INIT;
    buf_addf(&head, "format %s\nbase %s\n", format, base);
    int rc = head.failed ? err_oom(err, "making a digest") : 0;
    if (rc == 0) {
        rc = digest_files("", CLAAS_SERVE | CLAAS_TRAIN, files, n, &state, err);
    }
    if (rc == 0) {
        rc = digest_files(head.data, CLAAS_SERVE, files, n, &serve, err);
    }
    if (rc == 0) {
        *out_state = state;
        *out_serve = serve;
    }
    buf_clear(&head);
    return rc;
}

/* ---- writing ---- */

static int put_text(cJSON *o, const char *name, const char *text)
{
    return json_put(o, name, cJSON_CreateString(text ? text : ""));
}

static int put_number(cJSON *o, const char *name, double v)
{
    return json_put(o, name, cJSON_CreateNumber(v));
}

static cJSON *encode_file(const struct claas_file *f)
{
    char hex[SHA256_HEX];
    sha256_hex(&f->sha256, hex);
    cJSON *o = cJSON_CreateObject();
    cJSON *roles = cJSON_CreateArray();
    int failed = put_text(o, "name", f->name);
    for (size_t r = 0; r < sizeof role_names / sizeof *role_names; r++) {
        if (f->roles & role_names[r].bit) {
            failed |= json_push(roles, cJSON_CreateString(role_names[r].name));
        }
    }
    failed |= json_put(o, "roles", roles) | put_number(o, "bytes", (double)f->bytes) | put_text(o, "sha256", hex);
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static int put_files(cJSON *o, const struct entry_draft *d)
{
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (uint32_t i = 0; i < d->n_files; i++) {
        failed |= json_push(list, encode_file(d->files[i]));
    }
    return json_put(o, "files", list) | failed;
}

static int put_claims(cJSON *o, const struct entry_draft *d)
{
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (uint32_t i = 0; i < d->n_claims; i++) {
        failed |= json_push(list, cJSON_CreateString(d->claims[i]));
    }
    return json_put(o, "claims", list) | failed;
}

static int put_object(cJSON *o, const char *name, const cJSON *value)
{
    return json_put(o, name, value ? cJSON_Duplicate(value, 1) : cJSON_CreateObject());
}

/* Null when out of memory: never an entry that lacks something. */
static cJSON *encode(const struct entry_draft *d)
{
    char hex[SHA256_HEX];
    char time[CLOCK_TEXT];
    int64_t now = clock_real_ns();
    clock_format(now, time);
    cJSON *o = cJSON_CreateObject();
    int failed = put_number(o, "v", ENTRY_FORMAT) | put_text(o, "id", d->id) | put_number(o, "n", (double)d->n) |
                 put_text(o, "kind", adapter_kind_name(d->kind)) | put_text(o, "time", time) |
                 put_number(o, "time_us", (double)(now / 1000));
    if (d->previous) {
        sha256_hex(d->previous, hex);
        failed |= put_text(o, "previous", hex);
    }
    failed |= put_text(o, "job", d->job) | put_text(o, "engine", d->engine) | put_text(o, "format", d->format) |
              put_text(o, "base", d->base) | put_text(o, "base_name", d->base_name);
    if (d->of) {
        failed |= put_number(o, "of", (double)d->of);
    }
    failed |= put_files(o, d) | put_claims(o, d) | put_object(o, "settings", d->settings) |
              put_object(o, "metrics", d->metrics);
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

int entry_encode(const struct entry_draft *d, struct buf *out, struct claas_error *err)
{
    cJSON *o = encode(d);
    char *text = o ? json_print(o) : NULL;
    cJSON_Delete(o);
    size_t before = out->len;
    if (text) {
        buf_adds(out, text);
        buf_addc(out, '\n');
    }
    free(text);
    if (!text || out->failed) {
        return err_oom(err, "writing a log entry");
    }
    if (out->len - before > ENTRY_BYTES_MAX) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL,
                       "the log entry %llu of '%s' would have more than %d bytes",
                       (unsigned long long)d->n, d->id, ENTRY_BYTES_MAX);
    }
    return 0;
}

/* ---- reading ---- */

static int decode_text(const cJSON *o, const char *name, const char **out, struct claas_error *err)
{
    *out = "";
    return json_get_text(o, name, out, err);
}

static int decode_kind(const cJSON *o, enum adapter_kind *out, struct claas_error *err)
{
    const char *text = "";
    int rc = json_get_text(o, "kind", &text, err);
    for (int k = ADAPTER_CREATE; rc == 0 && k <= ADAPTER_DELETE; k++) {
        if (strcmp(text, kind_names[k]) == 0) {
            *out = (enum adapter_kind)k;
            return 0;
        }
    }
    return rc ? rc : err_set(err, CLAAS_ERR_INVALID, "kind", "unknown kind '%.40s'", text);
}

static int decode_roles(const cJSON *list, uint32_t *out, struct claas_error *err)
{
    uint32_t roles = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        uint32_t bit = 0;
        for (size_t r = 0; r < sizeof role_names / sizeof *role_names; r++) {
            if (cJSON_IsString(item) && strcmp(item->valuestring, role_names[r].name) == 0) {
                bit = role_names[r].bit;
            }
        }
        if (!bit) {
            return err_set(err, CLAAS_ERR_INVALID, "roles", "a file has an unknown role");
        }
        roles |= bit;
    }
    if (!roles) {
        return err_set(err, CLAAS_ERR_INVALID, "roles", "a file has no role");
    }
    *out = roles;
    return 0;
}

static int decode_file(const cJSON *o, struct claas_file *f, struct claas_error *err)
{
    const char *hex = "";
    int64_t bytes = -1;
    *f = (struct claas_file){ .size = sizeof *f };
    int rc = json_get_text(o, "name", &f->name, err);
    if (rc == 0) {
        rc = name_check_file(f->name, err);
    }
    if (rc == 0) {
        rc = json_get_int(o, "bytes", 0, BYTES_MAX, &bytes, err);
    }
    if (rc == 0) {
        rc = json_get_text(o, "sha256", &hex, err);
    }
    if (rc == 0 && (bytes < 0 || !sha256_parse(hex, &f->sha256))) {
        rc = err_set(err, CLAAS_ERR_INVALID, "files", "the file '%s' lacks its size or digest",
                     f->name);
    }
    f->bytes = (uint64_t)bytes;
    return rc ? rc : decode_roles(json_get(o, "roles"), &f->roles, err);
}

static int decode_files(const cJSON *list, struct entry_box *box, struct claas_error *err)
{
    int count = cJSON_GetArraySize(list);
    if (!cJSON_IsArray(list) || count > FILES_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "files", "no list of at most %d files", FILES_MAX);
    }
    box->facts = mem_array((size_t)count, sizeof *box->facts);
    box->files = mem_array((size_t)count, sizeof *box->files);
    if (!box->facts || !box->files) {
        return err_oom(err, "reading a log entry");
    }
    uint32_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        int rc = decode_file(item, &box->facts[n], err);
        for (uint32_t i = 0; rc == 0 && i < n; i++) {
            if (strcmp(box->facts[i].name, box->facts[n].name) == 0) {
                rc = err_set(err, CLAAS_ERR_INVALID, "files", "the file '%s' is there twice",
                             box->facts[n].name);
            }
        }
        if (rc) {
            return rc;
        }
        box->files[n] = &box->facts[n];
        n++;
    }
    box->entry.files = box->files;
    box->entry.n_files = n;
    return 0;
}

static int decode_claims(const cJSON *list, struct entry_box *box, struct claas_error *err)
{
    int count = cJSON_GetArraySize(list);
    if (count > CLAIMS_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "claims", "more than %d claims", CLAIMS_MAX);
    }
    box->claims = mem_array((size_t)count, sizeof *box->claims);
    if (!box->claims) {
        return err_oom(err, "reading a log entry");
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item)) {
            return err_set(err, CLAAS_ERR_INVALID, "claims", "a claim is no text");
        }
        box->claims[box->entry.n_claims++] = item->valuestring;
    }
    box->entry.claims = box->claims;
    return 0;
}

static int decode_object(const cJSON *o, const char *name, char **owner, const char **out,
                         struct claas_error *err)
{
    const cJSON *value = json_get(o, name);
    if (value && !cJSON_IsObject(value)) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' is no object", name);
    }
    *owner = value ? json_print(value) : mem_dup("{}", 2);
    *out = *owner;
    return *owner ? 0 : err_oom(err, "reading a log entry");
}

/* Which entry it says it is, and what it follows. */
static int decode_place(const cJSON *o, const char *id, uint64_t n, struct adapter_entry *e,
                        struct claas_error *err)
{
    int64_t version = 0;
    int64_t number = 0;
    int64_t of = 0;
    int64_t time_us = 0;
    const char *hex = NULL;
    int rc = json_get_int(o, "v", 1, INT32_MAX, &version, err);
    if (rc == 0 && version > ENTRY_FORMAT) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "v",
                       "it was written by a newer claas (format %lld)", (long long)version);
    }
    if (rc == 0) {
        rc = decode_text(o, "id", &e->id, err);
    }
    if (rc == 0) {
        rc = json_get_int(o, "n", 1, ENTRY_N_MAX, &number, err);
    }
    if (rc == 0) {
        rc = json_get_int(o, "of", 0, ENTRY_N_MAX, &of, err);
    }
    if (rc == 0) {
        rc = json_get_int(o, "time_us", 0, BYTES_MAX, &time_us, err);
    }
    if (rc == 0) {
        rc = json_get_text(o, "previous", &hex, err);
    }
    if (rc == 0 && (version == 0 || strcmp(e->id, id) != 0 || (uint64_t)number != n)) {
        rc = err_set(err, CLAAS_ERR_INVALID, "n", "it says it is entry %lld of '%.80s'",
                     (long long)number, e->id);
    }
    if (rc == 0 && ((n > 1) != (hex != NULL) || (hex && !sha256_parse(hex, &e->previous)))) {
        rc = err_set(err, CLAAS_ERR_INVALID, "previous",
                     "the digest of the entry before it is missing or malformed");
    }
    e->n = n;
    e->of = (uint64_t)of;
    e->time_ns = time_us * 1000;
    return rc;
}

static int decode_words(const cJSON *o, struct adapter_entry *e, struct claas_error *err)
{
    int rc = decode_kind(o, &e->kind, err);
    if (rc == 0) {
        rc = decode_text(o, "job", &e->job, err);
    }
    if (rc == 0) {
        rc = decode_text(o, "engine", &e->engine, err);
    }
    if (rc == 0) {
        rc = decode_text(o, "format", &e->format, err);
    }
    if (rc == 0) {
        rc = decode_text(o, "base", &e->base, err);
    }
    if (rc == 0) {
        rc = decode_text(o, "base_name", &e->base_name, err);
    }
    if (rc == 0 && e->job[0] == '\0') {
        rc = err_set(err, CLAAS_ERR_INVALID, "job", "it names no job");
    }
    return rc;
}

static int decode_all(const char *id, uint64_t n, struct entry_box *box, struct claas_error *err)
{
    struct adapter_entry *e = &box->entry;
    int rc = cJSON_IsObject(box->json) ? 0
                                       : err_set(err, CLAAS_ERR_INVALID, NULL, "no JSON object");
    if (rc == 0) {
        rc = decode_place(box->json, id, n, e, err);
    }
    if (rc == 0) {
        rc = decode_words(box->json, e, err);
    }
    if (rc == 0) {
        rc = decode_files(json_get(box->json, "files"), box, err);
    }
    if (rc == 0) {
        rc = decode_claims(json_get(box->json, "claims"), box, err);
    }
    if (rc == 0 && (e->kind == ADAPTER_DELETE) != (e->n_files == 0)) {
        rc = err_set(err, CLAAS_ERR_INVALID, "files",
                     "a version without files, or a deletion with some");
    }
    if (rc == 0) {
        rc = decode_object(box->json, "settings", &box->settings, &e->settings_json, err);
    }
    if (rc == 0) {
        rc = decode_object(box->json, "metrics", &box->metrics, &e->metrics_json, err);
    }
    if (rc == 0 && e->n_files > 0) {
        rc = adapter_digests(e->format, e->base, e->files, e->n_files, &e->state, &e->serve, err);
    }
    return rc;
}

int entry_decode(const char *id, uint64_t n, const char *text, size_t bytes,
                 struct adapter_entry **out, struct claas_error *err)
{
    char key[KEY_CAP];
    key_log(key, id, n);
    struct entry_box *box = calloc(1, sizeof *box);
    if (!box) {
        return err_oom(err, "reading a log entry");
    }
    atomic_init(&box->refs, 1);
    box->bytes = bytes + sizeof *box;
    struct claas_error local = ERR_INIT;
    int rc = json_parse(text, bytes, key, &box->json, &local);
    if (rc == 0) {
        rc = decode_all(id, n, box, &local);
    }
    if (rc == 0) {
        rc = sha256_of(text, bytes, &box->entry.sha256, &local);
    }
    if (rc == 0) {
        *out = &box->entry;
        return 0;
    }
    adapter_entry_unref(&box->entry);
    /* what is malformed in the store is no fault of the request */
    int code = rc == CLAAS_ERR_INVALID || rc == CLAAS_ERR_NOT_FOUND ? CLAAS_ERR_CORRUPT : rc;
    return err_set(err, code, key, "cannot read the log entry '%s': %s", key, local.message);
}
