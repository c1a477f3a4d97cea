/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/safetensors.h"

#include "plugins/local/rows.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADER_MAX = 100000000,
    VALUES_MAX = 2000000, /* commas in the header: bounds the memory a hostile one can ask for */
    DIGITS_MAX = 15       /* of a number: exact as a double */
};

static const struct {
    const char *name;
    unsigned bits;
} dtype_rows[] = {
    { "F64", 64 },       { "F32", 32 },         { "F16", 16 },       { "BF16", 16 },   { "I64", 64 },
    { "I32", 32 },       { "I16", 16 },         { "I8", 8 },         { "U64", 64 },    { "U32", 32 },
    { "U16", 16 },       { "U8", 8 },           { "BOOL", 8 },       { "F8_E5M2", 8 }, { "F8_E4M3", 8 },
    { "F8_E8M0", 8 },    { "F8_E4M3FNUZ", 8 },  { "F8_E5M2FNUZ", 8 }, { "F4", 4 },     { "F6_E2M3", 6 },
    { "F6_E3M2", 6 },    { "C64", 64 },
};

static int bad(const struct safetensors *s, const char *what, struct claas_error *err, const char *why)
{
    return err_set(err, CLAAS_ERR_CORRUPT, what, "cannot read '%s': %s%.100s%s%s", s->path,
                   what && *what ? "tensor '" : "", what ? what : "", what && *what ? "': " : "", why);
}

/* The format allows whole numbers only, and no other literals: so outside of strings there are brackets, commas,
 * colons, blanks and digits. What passes here is exact when cJSON reads it as a double. */
static int header_is_plain(const char *p, size_t n)
{
    size_t commas = 0;
    size_t digits = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"') {
            for (i++; i < n && p[i] != '"'; i++) {
                i += p[i] == '\\';
            }
            digits = 0;
        } else if (p[i] >= '0' && p[i] <= '9') {
            if (++digits > DIGITS_MAX || (digits == 2 && p[i - 1] == '0')) {
                return 0;
            }
        } else if (p[i] == '\0' || !strchr("{}[]:, \t\r\n", p[i])) {
            return 0;
        } else {
            digits = 0;
            commas += p[i] == ',';
        }
    }
    return commas <= VALUES_MAX;
}

static int whole_number(const cJSON *v, uint64_t *out)
{
    if (!cJSON_IsNumber(v) || v->valuedouble < 0 || v->valuedouble >= 0x1p53) {
        return -1;
    }
    *out = (uint64_t)v->valuedouble;
    return 0;
}

/* ---- one entry ---- */

static int entry_dtype(const struct safetensors *s, struct safetensors_entry *e, const cJSON *v,
                       struct claas_error *err)
{
    if (!cJSON_IsString(v)) {
        return bad(s, e->name, err, "it has no dtype");
    }
    for (size_t i = 0; i < sizeof dtype_rows / sizeof dtype_rows[0]; i++) {
        if (strcmp(dtype_rows[i].name, v->valuestring) == 0) {
            memcpy(e->dtype, v->valuestring, strlen(v->valuestring) + 1);
            e->bits = dtype_rows[i].bits;
            return 0;
        }
    }
    return err_set(err, CLAAS_ERR_UNSUPPORTED, e->name, "cannot read '%s': tensor '%.100s' has the unknown dtype '%.20s'",
                   s->path, e->name, v->valuestring);
}

static int entry_shape(const struct safetensors *s, struct safetensors_entry *e, const cJSON *v, uint64_t *out_bytes,
                       struct claas_error *err)
{
    uint64_t bits = e->bits;
    if (!cJSON_IsArray(v)) {
        return bad(s, e->name, err, "it has no shape");
    }
    for (const cJSON *d = v->child; d; d = d->next) {
        if (e->rank == SAFETENSORS_RANK_MAX) {
            return bad(s, e->name, err, "it has more than 8 dimensions");
        }
        if (whole_number(d, &e->shape[e->rank])) {
            return bad(s, e->name, err, "its shape is not a list of whole numbers");
        }
        if (__builtin_mul_overflow(bits, e->shape[e->rank], &bits)) {
            return bad(s, e->name, err, "the product of its shape overflows");
        }
        e->rank++;
    }
    if (bits % 8 != 0) {
        return bad(s, e->name, err, "it does not fill whole bytes");
    }
    *out_bytes = bits / 8;
    return 0;
}

static int entry_read(const struct safetensors *s, const cJSON *v, const uint8_t *data, uint64_t data_bytes,
                      struct safetensors_entry *e, struct claas_error *err)
{
    uint64_t begin;
    uint64_t end;
    uint64_t bytes = 0;
    size_t members = 0;
    for (const cJSON *m = cJSON_IsObject(v) ? v->child : NULL; m; m = m->next) {
        members++;
    }
    const cJSON *offsets = json_get(v, "data_offsets");
    if (members != 3 || !cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        whole_number(offsets->child, &begin) || whole_number(offsets->child->next, &end)) {
        return bad(s, e->name, err, "its entry is not {dtype, shape, data_offsets}");
    }
    int rc = entry_dtype(s, e, json_get(v, "dtype"), err);
    rc = rc ? rc : entry_shape(s, e, json_get(v, "shape"), &bytes, err);
    if (rc) {
        return rc;
    }
    if (end < begin || end > data_bytes) {
        return bad(s, e->name, err, end < begin ? "its offsets run backwards"
                                                : "its data end past the end of the file (is the download complete?)");
    }
    if (end - begin != bytes) {
        return bad(s, e->name, err, "its shape and dtype do not fit the size of its data");
    }
    e->data = data + begin;
    e->bytes = bytes;
    return 0;
}

/* ---- the header ---- */

static int metadata_read(struct safetensors *s, const cJSON *v, struct claas_error *err)
{
    size_t n = 0;
    if (!cJSON_IsObject(v)) {
        return bad(s, NULL, err, "__metadata__ is not an object");
    }
    for (const cJSON *m = v->child; m; m = m->next) {
        n++;
    }
    s->metadata = mem_array(n, sizeof *s->metadata);
    if (!s->metadata) {
        return err_oom(err, "reading safetensors metadata");
    }
    for (const cJSON *m = v->child; m; m = m->next) {
        if (!cJSON_IsString(m)) {
            return bad(s, NULL, err, "__metadata__ holds something other than strings");
        }
        struct safetensors_pair *p = &s->metadata[s->n_metadata++];
        p->key = mem_dup(m->string, strlen(m->string));
        p->value = mem_dup(m->valuestring, strlen(m->valuestring));
        if (!p->key || !p->value) {
            return err_oom(err, "reading safetensors metadata");
        }
    }
    return 0;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct safetensors_entry *x = a;
    const struct safetensors_entry *y = b;
    if (x->data != y->data) {
        return x->data < y->data ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct safetensors_entry *)a)->name, ((const struct safetensors_entry *)b)->name);
}

/* The tensors tile the data: no overlap, no gap, nothing behind the last one. */
static int tiling_check(struct safetensors *s, const uint8_t *data, uint64_t data_bytes, struct claas_error *err)
{
    uint64_t at = 0;
    qsort(s->entries, s->n_entries, sizeof *s->entries, compare_offsets);
    for (size_t i = 0; i < s->n_entries; i++) {
        const struct safetensors_entry *e = &s->entries[i];
        uint64_t begin = (uint64_t)(e->data - data);
        if (begin != at) {
            return bad(s, e->name, err, begin < at ? "it overlaps the tensor before it"
                                                   : "there is a gap between it and the tensor before it");
        }
        at = begin + e->bytes;
    }
    if (at != data_bytes) {
        return bad(s, NULL, err, "bytes that belong to no tensor follow the last one");
    }
    return 0;
}

static int entries_read(struct safetensors *s, const cJSON *root, const uint8_t *data, uint64_t data_bytes,
                        struct claas_error *err)
{
    size_t n = 0;
    for (const cJSON *v = root->child; v; v = v->next) {
        n++;
    }
    if (n > SAFETENSORS_COUNT_MAX) {
        return bad(s, NULL, err, "more than 100000 tensors");
    }
    s->entries = mem_array(n, sizeof *s->entries);
    if (!s->entries) {
        return err_oom(err, "reading a safetensors header");
    }
    for (const cJSON *v = root->child; v; v = v->next) {
        int rc;
        if (strcmp(v->string, "__metadata__") == 0) {
            rc = metadata_read(s, v, err);
        } else if (strlen(v->string) > SAFETENSORS_NAME_MAX || !*v->string) {
            rc = bad(s, NULL, err, "a tensor's name is empty or longer than 512 bytes");
        } else {
            struct safetensors_entry *e = &s->entries[s->n_entries++];
            e->name = mem_dup(v->string, strlen(v->string));
            rc = e->name ? entry_read(s, v, data, data_bytes, e, err) : err_oom(err, "reading a safetensors header");
        }
        if (rc) {
            return rc;
        }
    }
    int rc = tiling_check(s, data, data_bytes, err);
    qsort(s->entries, s->n_entries, sizeof *s->entries, compare_names);
    return rc;
}

static int header_read(struct safetensors *s, struct claas_error *err)
{
    uint64_t n;
    if (s->map.bytes < sizeof n) {
        return bad(s, NULL, err, "it is shorter than 8 bytes");
    }
    memcpy(&n, s->map.data, sizeof n);
    if (n > HEADER_MAX || n > s->map.bytes - sizeof n) {
        return bad(s, NULL, err, n > HEADER_MAX ? "its header is longer than 100000000 bytes"
                                                : "the file ends inside the header (is the download complete?)");
    }
    const char *text = (const char *)s->map.data + sizeof n;
    if (n == 0 || text[0] != '{' || !header_is_plain(text, (size_t)n)) {
        return bad(s, NULL, err, "its header is not an object of tensors described by whole numbers");
    }
    cJSON *root = NULL;
    int rc = json_parse(text, (size_t)n, "the header", &root, err);
    if (rc == CLAAS_ERR_INVALID) {
        struct claas_error why = err ? *err : ERR_INIT;
        rc = err_set(err, CLAAS_ERR_CORRUPT, NULL, "cannot read '%s': %.200s", s->path, why.message);
    }
    if (!rc) {
        s->header_bytes = sizeof n + (size_t)n;
        rc = entries_read(s, root, s->map.data + s->header_bytes, s->map.bytes - s->header_bytes, err);
    }
    cJSON_Delete(root);
    return rc;
}

int safetensors_open(const char *path, struct safetensors **out, struct claas_error *err)
{
    struct safetensors *s = calloc(1, sizeof *s);
    if (!s) {
        return err_oom(err, "opening a safetensors file");
    }
    /* Messages show the end of a long path: the reason must fit behind it. */
    size_t n = strlen(path);
    s->path = mem_dup(path + (n > 160 ? n - 160 : 0), n > 160 ? 160 : n);
    int rc = s->path ? file_map_open(path, &s->map, err) : err_oom(err, "opening a safetensors file");
    rc = rc ? rc : header_read(s, err);
    if (rc) {
        safetensors_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n_entries; i++) {
        free(s->entries[i].name);
    }
    for (size_t i = 0; i < s->n_metadata; i++) {
        free(s->metadata[i].key);
        free(s->metadata[i].value);
    }
    file_map_close(&s->map);
    free(s->entries);
    free(s->metadata);
    free(s->path);
    free(s);
}

const struct safetensors_entry *safetensors_find(const struct safetensors *s, const char *name)
{
    size_t low = 0;
    size_t high = s->n_entries;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(name, s->entries[mid].name);
        if (order == 0) {
            return &s->entries[mid];
        }
        if (order < 0) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return NULL;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    for (size_t i = 0; i < s->n_metadata; i++) {
        if (strcmp(s->metadata[i].key, key) == 0) {
            return s->metadata[i].value;
        }
    }
    return NULL;
}

/* ---- numbers ---- */

int safetensors_floats(const struct safetensors *s, const struct safetensors_entry *e, float *out,
                       struct claas_error *err)
{
    size_t n = (size_t)(e->bytes * 8 / e->bits);
    if (strcmp(e->dtype, "F32") == 0) {
        row_floats(KERNELS_F32, e->data, n, out);
    } else if (strcmp(e->dtype, "F16") == 0) {
        row_floats(KERNELS_F16, e->data, n, out);
    } else if (strcmp(e->dtype, "BF16") == 0) {
        row_floats(KERNELS_BF16, e->data, n, out);
    } else if (strcmp(e->dtype, "F64") == 0) {
        for (size_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, e->data + i * sizeof d, sizeof d);
            out[i] = (float)d;
        }
    } else {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, e->name,
                       "cannot use '%s': tensor '%.100s' has dtype %s; known are F32, F16, BF16, F64", s->path, e->name,
                       e->dtype);
    }
    return 0;
}

int safetensors_finite(const struct safetensors *s, const struct safetensors_entry *e, const float *values,
                       struct claas_error *err)
{
    size_t n = (size_t)(e->bytes * 8 / e->bits);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            return err_set(err, CLAAS_ERR_INVALID, e->name, "cannot use '%s': tensor '%.100s' holds %s at element %zu",
                           s->path, e->name, isnan(values[i]) ? "NaN" : "an infinity", i);
        }
    }
    return 0;
}

/* ---- writing ---- */

static int add_quoted(struct buf *out, const char *text)
{
    cJSON *value = cJSON_CreateString(text);
    char *printed = value ? json_print(value) : NULL;
    cJSON_Delete(value);
    if (!printed) {
        return -1;
    }
    buf_adds(out, printed);
    free(printed);
    return 0;
}

int safetensors_header(const struct safetensors_plan *plans, size_t n, const struct safetensors_pair *metadata,
                       size_t n_metadata, struct buf *out, struct claas_error *err)
{
    uint64_t at = 0;
    int failed = 0;
    struct buf json = BUF_INIT;
    buf_adds(&json, "{\"__metadata__\":{");
    for (size_t i = 0; i < n_metadata; i++) {
        buf_adds(&json, i ? "," : "");
        failed |= add_quoted(&json, metadata[i].key);
        buf_addc(&json, ':');
        failed |= add_quoted(&json, metadata[i].value);
    }
    buf_addc(&json, '}');
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = plans[i].rows * plans[i].cols * sizeof(float);
        buf_addc(&json, ',');
        failed |= add_quoted(&json, plans[i].name);
        buf_addf(&json, ":{\"dtype\":\"F32\",\"shape\":[%" PRIu64 ",%" PRIu64 "],\"data_offsets\":[%" PRIu64 ",%" PRIu64
                        "]}", plans[i].rows, plans[i].cols, at, at + bytes);
        at += bytes;
    }
    buf_addc(&json, '}');
    while (json.len % 8 != 0 && !json.failed) {
        buf_addc(&json, ' ');
    }
    uint64_t length = json.len;
    buf_add(out, &length, sizeof length);
    buf_add(out, json.data, json.len);
    failed |= json.failed || out->failed;
    buf_clear(&json);
    return failed ? err_oom(err, "writing a safetensors header") : 0;
}
