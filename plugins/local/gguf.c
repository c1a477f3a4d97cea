/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/gguf.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GGUF_NAME_MAX = 63,       /* bytes of a tensor's name */
    GGUF_KEY_MAX = 65535,
    GGUF_VALUES_MAX = 65536,
    GGUF_TENSORS_MAX = 100000,
    GGUF_STRING_MAX = 1 << 30, /* and elements of an array */
    GGUF_HEADER_MAX = 256 << 20,
    GGUF_ALIGNMENT = 32
};

/* Where the reader stands; `what` names the key or tensor being read. */
struct cursor {
    struct gguf *g;
    const uint8_t *data;
    size_t bytes;
    size_t at;
    char what[96];
};

static const struct {
    uint32_t id;
    const char *name;
    uint32_t elements; /* of a block; 0: a type whose layout we do not know */
    uint32_t bytes;
} type_rows[] = {
    { 0, "F32", 1, 4 },      { 1, "F16", 1, 2 },      { 2, "Q4_0", 32, 18 },   { 3, "Q4_1", 32, 20 },
    { 6, "Q5_0", 32, 22 },   { 7, "Q5_1", 32, 24 },   { 8, "Q8_0", 32, 34 },   { 10, "Q2_K", 0, 0 },
    { 11, "Q3_K", 0, 0 },    { 12, "Q4_K", 256, 144 }, { 13, "Q5_K", 256, 176 }, { 14, "Q6_K", 256, 210 },
    { 15, "Q8_K", 0, 0 },    { 16, "IQ2_XXS", 0, 0 }, { 17, "IQ2_XS", 0, 0 },  { 18, "IQ3_XXS", 0, 0 },
    { 19, "IQ1_S", 0, 0 },   { 20, "IQ4_NL", 0, 0 },  { 21, "IQ3_S", 0, 0 },   { 22, "IQ2_S", 0, 0 },
    { 23, "IQ4_XS", 0, 0 },  { 24, "I8", 1, 1 },      { 25, "I16", 1, 2 },     { 26, "I32", 1, 4 },
    { 27, "I64", 1, 8 },     { 28, "F64", 1, 8 },     { 29, "IQ1_M", 0, 0 },   { 30, "BF16", 1, 2 },
    { 34, "TQ1_0", 0, 0 },   { 35, "TQ2_0", 0, 0 },   { 39, "MXFP4", 0, 0 },   { 40, "NVFP4", 0, 0 },
};

enum { TYPE_ROWS = sizeof type_rows / sizeof type_rows[0] };

static size_t type_row(uint32_t id)
{
    size_t i = 0;
    while (i < TYPE_ROWS && type_rows[i].id != id) {
        i++;
    }
    return i;
}

const char *gguf_type_name(uint32_t type)
{
    size_t i = type_row(type);
    return i < TYPE_ROWS ? type_rows[i].name : NULL;
}

static size_t element_bytes(enum gguf_type t)
{
    static const uint8_t bytes[GGUF_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return bytes[t];
}

/* The file breaks its format at what the cursor names. */
static int bad(const struct cursor *c, struct claas_error *err, const char *why)
{
    return err_set(err, CLAAS_ERR_CORRUPT, c->what, "cannot read model file '%s': %s: %s", c->g->path, c->what, why);
}

static void name_it(struct cursor *c, const char *kind, struct token_text t)
{
    int shown = t.n > 60 ? 60 : (int)t.n;
    while (shown > 0 && shown < (int)t.n && ((unsigned char)t.s[shown] & 0xC0) == 0x80) {
        shown--;
    }
    (void)snprintf(c->what, sizeof c->what, "%s '%.*s'", kind, shown, t.s);
}

static int take(struct cursor *c, uint64_t n, const uint8_t **out, struct claas_error *err)
{
    if (n > c->bytes - c->at) {
        return bad(c, err, "the file ends inside it (is the download complete?)");
    }
    *out = c->data + c->at;
    c->at += (size_t)n;
    if (c->at > GGUF_HEADER_MAX) {
        return bad(c, err, "the metadata are larger than 256 MiB");
    }
    return 0;
}

static int take_u32(struct cursor *c, uint32_t *out, struct claas_error *err)
{
    const uint8_t *p = NULL;
    int rc = take(c, sizeof *out, &p, err);
    if (!rc) {
        memcpy(out, p, sizeof *out);
    }
    return rc;
}

static int take_u64(struct cursor *c, uint64_t *out, struct claas_error *err)
{
    const uint8_t *p = NULL;
    int rc = take(c, sizeof *out, &p, err);
    if (!rc) {
        memcpy(out, p, sizeof *out);
    }
    return rc;
}

static int take_string(struct cursor *c, struct token_text *out, struct claas_error *err)
{
    uint64_t n = 0;
    const uint8_t *p = NULL;
    int rc = take_u64(c, &n, err);
    if (rc) {
        return rc;
    }
    if (n > GGUF_STRING_MAX) {
        return bad(c, err, "a string longer than 2^30 bytes");
    }
    rc = take(c, n, &p, err);
    if (rc) {
        return rc;
    }
    if (!utf8_valid((const char *)p, (size_t)n)) {
        return bad(c, err, "a string that is not valid UTF-8");
    }
    *out = (struct token_text){ (const char *)p, (size_t)n };
    return 0;
}

/* ---- metadata ---- */

static int take_elements(struct cursor *c, struct gguf_value *v, struct claas_error *err)
{
    size_t from = c->at;
    v->data = c->data + from;
    if (v->element == GGUF_STRING) {
        struct token_text t;
        for (uint64_t i = 0; i < v->count; i++) {
            int rc = take_string(c, &t, err);
            if (rc) {
                return rc;
            }
        }
    } else {
        const uint8_t *p = NULL;
        int rc = take(c, v->count * element_bytes(v->element), &p, err);
        if (rc) {
            return rc;
        }
        for (uint64_t i = 0; v->element == GGUF_BOOL && i < v->count; i++) {
            if (p[i] > 1) {
                return bad(c, err, "a bool that is neither 0 nor 1");
            }
        }
    }
    v->bytes = c->at - from;
    return 0;
}

static int take_value(struct cursor *c, struct gguf_value *v, struct claas_error *err)
{
    uint32_t type;
    (void)snprintf(c->what, sizeof c->what, "key %zu", c->g->n_values);
    int rc = take_string(c, &v->key, err);
    if (rc) {
        return rc;
    }
    if (v->key.n == 0 || v->key.n > GGUF_KEY_MAX || memchr(v->key.s, 0, v->key.n)) {
        return bad(c, err, "an empty key, one longer than 65535 bytes, or one with a NUL byte");
    }
    name_it(c, "key", v->key);
    rc = take_u32(c, &type, err);
    if (rc) {
        return rc;
    }
    if (type >= GGUF_TYPES) {
        return bad(c, err, "an unknown type of value");
    }
    v->type = v->element = (enum gguf_type)type;
    v->count = 1;
    if (v->type == GGUF_ARRAY) {
        rc = take_u32(c, &type, err);
        rc = rc ? rc : take_u64(c, &v->count, err);
        if (rc) {
            return rc;
        }
        if (type >= GGUF_TYPES || type == GGUF_ARRAY) {
            return bad(c, err, type == GGUF_ARRAY ? "an array of arrays" : "an unknown type of element");
        }
        if (v->count > GGUF_STRING_MAX) {
            return bad(c, err, "an array of more than 2^30 elements");
        }
        v->element = (enum gguf_type)type;
    }
    return take_elements(c, v, err);
}

static int compare_texts(struct token_text a, struct token_text b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = memcmp(a.s, b.s, n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int compare_values(const void *a, const void *b)
{
    return compare_texts(((const struct gguf_value *)a)->key, ((const struct gguf_value *)b)->key);
}

/* Values sorted by key, each key once. */
static int take_values(struct cursor *c, uint64_t n, struct claas_error *err)
{
    struct gguf *g = c->g;
    size_t cap = 0;
    if (n > GGUF_VALUES_MAX) {
        return bad(c, err, "more than 65536 keys");
    }
    for (uint64_t i = 0; i < n; i++) {
        if (mem_grow((void **)&g->values, &cap, g->n_values + 1, sizeof *g->values)) {
            return err_oom(err, "reading a model's metadata");
        }
        memset(&g->values[g->n_values], 0, sizeof *g->values);
        int rc = take_value(c, &g->values[g->n_values], err);
        if (rc) {
            return rc;
        }
        g->n_values++;
    }
    if (g->n_values) {
        qsort(g->values, g->n_values, sizeof *g->values, compare_values);
    }
    for (size_t i = 1; i < g->n_values; i++) {
        if (compare_values(&g->values[i - 1], &g->values[i]) == 0) {
            name_it(c, "key", g->values[i].key);
            return bad(c, err, "it stands there twice");
        }
    }
    return 0;
}

/* ---- tensors ---- */

/* Size of a tensor with every product checked. */
static int tensor_bytes(const struct cursor *c, struct gguf_tensor *t, struct claas_error *err)
{
    size_t row = type_row(t->type);
    uint64_t count = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (__builtin_mul_overflow(count, t->dims[i], &count) || count > INT64_MAX) {
            return bad(c, err, "the product of its dimensions overflows");
        }
    }
    if (row == TYPE_ROWS) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, c->what, "cannot use model file '%s': %s has the unknown type %u",
                       c->g->path, c->what, t->type);
    }
    if (type_rows[row].elements == 0) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, c->what,
                       "cannot use model file '%s': %s has the type %s; known are F32, F16, BF16, Q8_0, Q4_0, Q4_1",
                       c->g->path, c->what, type_rows[row].name);
    }
    if (t->dims[0] % type_rows[row].elements != 0) {
        return bad(c, err, "its rows are not a whole number of blocks");
    }
    if (__builtin_mul_overflow(count / type_rows[row].elements, (uint64_t)type_rows[row].bytes, &t->bytes)) {
        return bad(c, err, "its size overflows");
    }
    return 0;
}

static int take_tensor(struct cursor *c, size_t number, struct gguf_tensor *t, uint64_t *offset,
                       struct claas_error *err)
{
    (void)snprintf(c->what, sizeof c->what, "tensor %zu", number);
    int rc = take_string(c, &t->name, err);
    if (rc) {
        return rc;
    }
    if (t->name.n == 0 || t->name.n > GGUF_NAME_MAX || memchr(t->name.s, 0, t->name.n)) {
        return bad(c, err, "an empty name, one longer than 63 bytes, or one with a NUL byte");
    }
    name_it(c, "tensor", t->name);
    rc = take_u32(c, &t->rank, err);
    if (rc) {
        return rc;
    }
    if (t->rank > 4) {
        return bad(c, err, "more than 4 dimensions");
    }
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i < t->rank) {
            rc = take_u64(c, &t->dims[i], err);
            if (rc) {
                return rc;
            }
            if (t->dims[i] > INT64_MAX) {
                return bad(c, err, "a negative dimension");
            }
        }
    }
    rc = take_u32(c, &t->type, err);
    rc = rc ? rc : take_u64(c, offset, err);
    return rc ? rc : tensor_bytes(c, t, err);
}

static int compare_tensors(const void *a, const void *b)
{
    return compare_texts((*(const struct gguf_tensor *const *)a)->name, (*(const struct gguf_tensor *const *)b)->name);
}

static int index_tensors(struct cursor *c, struct claas_error *err)
{
    struct gguf *g = c->g;
    g->by_name = mem_array(g->n_tensors, sizeof *g->by_name);
    if (!g->by_name) {
        return err_oom(err, "reading a model's tensor table");
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        g->by_name[i] = &g->tensors[i];
    }
    qsort(g->by_name, g->n_tensors, sizeof(struct gguf_tensor *), compare_tensors);
    for (size_t i = 1; i < g->n_tensors; i++) {
        if (compare_tensors(&g->by_name[i - 1], &g->by_name[i]) == 0) {
            name_it(c, "tensor", g->by_name[i]->name);
            return bad(c, err, "it stands there twice");
        }
    }
    return 0;
}

static int alignment_read(struct cursor *c, uint64_t *out, struct claas_error *err)
{
    const struct gguf_value *v = gguf_find(c->g, "general.alignment");
    *out = GGUF_ALIGNMENT;
    if (!v) {
        return 0;
    }
    (void)snprintf(c->what, sizeof c->what, "key 'general.alignment'");
    uint32_t alignment = 0;
    if (v->type == GGUF_U32) {
        memcpy(&alignment, v->data, sizeof alignment);
    }
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        return bad(c, err, "it is not a power of two of type u32");
    }
    *out = alignment;
    return 0;
}

/* Offsets must tile the data: this is what excludes overlaps, gaps and anything beyond the end. */
static int place_tensors(struct cursor *c, const uint64_t *offsets, struct claas_error *err)
{
    struct gguf *g = c->g;
    uint64_t alignment;
    int rc = alignment_read(c, &alignment, err);
    if (rc) {
        return rc;
    }
    uint64_t start = ((uint64_t)c->at + alignment - 1) & ~(alignment - 1);
    uint64_t expected = 0;
    uint64_t end = start;
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        name_it(c, "tensor", t->name);
        if (offsets[i] != expected) {
            return bad(c, err, offsets[i] < expected ? "it overlaps the tensor before it"
                                                     : "its offset is not where the tensor before it ends");
        }
        if (__builtin_add_overflow(start + expected, t->bytes, &end) || start + expected < start || end > c->bytes) {
            return bad(c, err, "its data end past the end of the file (is the download complete?)");
        }
        t->data = c->data + start + expected;
        expected = (end - start + alignment - 1) & ~(alignment - 1);
    }
    (void)snprintf(c->what, sizeof c->what, "the end");
    if (c->bytes > start + expected) {
        return bad(c, err, "more bytes follow the last tensor");
    }
    return 0;
}

static int take_tensors(struct cursor *c, uint64_t n, struct claas_error *err)
{
    struct gguf *g = c->g;
    if (n > GGUF_TENSORS_MAX) {
        return bad(c, err, "more than 100000 tensors");
    }
    uint64_t *offsets = mem_array((size_t)n, sizeof *offsets);
    g->tensors = mem_array((size_t)n, sizeof *g->tensors);
    int rc = offsets && g->tensors ? 0 : err_oom(err, "reading a model's tensor table");
    for (; !rc && g->n_tensors < n; g->n_tensors++) {
        rc = take_tensor(c, g->n_tensors, &g->tensors[g->n_tensors], &offsets[g->n_tensors], err);
    }
    rc = rc ? rc : index_tensors(c, err);
    rc = rc ? rc : place_tensors(c, offsets, err);
    free(offsets);
    return rc;
}

static int take_version(struct cursor *c, struct claas_error *err)
{
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    int rc = take(c, 4, &magic, err);
    if (!rc && memcmp(magic, "GGUF", 4) != 0) {
        return bad(c, err, "it does not begin with 'GGUF'");
    }
    rc = rc ? rc : take_u32(c, &version, err);
    if (!rc && version != 2 && version != 3) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "version",
                       version > 0xFFFF ? "cannot use model file '%s': its byte order is the other one (version %u)"
                                        : "cannot use model file '%s': GGUF version %u, known are 2 and 3",
                       c->g->path, version);
    }
    return rc;
}

static int gguf_read(struct gguf *g, struct claas_error *err)
{
    struct cursor c = { .g = g, .data = g->map.data, .bytes = g->map.bytes };
    uint64_t n_tensors = 0;
    uint64_t n_values = 0;
    (void)snprintf(c.what, sizeof c.what, "the header");
    int rc = take_version(&c, err);
    rc = rc ? rc : take_u64(&c, &n_tensors, err);
    rc = rc ? rc : take_u64(&c, &n_values, err);
    rc = rc ? rc : take_values(&c, n_values, err);
    if (rc) {
        return rc;
    }
    (void)snprintf(c.what, sizeof c.what, "the tensor table");
    rc = take_tensors(&c, n_tensors, err);
    g->header_bytes = c.at;
    return rc;
}

int gguf_open(const char *path, struct gguf **out, struct claas_error *err)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) {
        return err_oom(err, "opening a model file");
    }
    /* Messages show the end of a long path: the reason must fit behind it. */
    size_t n = strlen(path);
    g->path = mem_dup(path + (n > 160 ? n - 160 : 0), n > 160 ? 160 : n);
    int rc = g->path ? file_map_open(path, &g->map, err) : err_oom(err, "opening a model file");
    rc = rc ? rc : gguf_read(g, err);
    if (rc) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (g) {
        file_map_close(&g->map);
        free(g->path);
        free(g->values);
        free(g->tensors);
        free(g->by_name);
        free(g);
    }
}

/* ---- look-ups ---- */

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    struct gguf_value wanted = { .key = { key, strlen(key) } };
    return g->n_values ? bsearch(&wanted, g->values, g->n_values, sizeof wanted, compare_values) : NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    struct gguf_tensor wanted = { .name = { name, strlen(name) } };
    const struct gguf_tensor *key = &wanted;
    const struct gguf_tensor *const *found =
        g->n_tensors ? bsearch(&key, g->by_name, g->n_tensors, sizeof(struct gguf_tensor *), compare_tensors) : NULL;
    return found ? *found : NULL;
}

static int wrong(const struct gguf *g, const char *key, const char *wanted, struct claas_error *err)
{
    return err_set(err, CLAAS_ERR_CORRUPT, key, "cannot use model file '%s': key '%s' is not %s", g->path, key, wanted);
}

/* Any integer type, as long as it is not negative. */
static int value_uint(const struct gguf_value *v, uint64_t *out)
{
    int64_t i = 0;
    uint64_t u = 0;
    switch (v->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        memcpy(&u, v->data, v->bytes);
        break;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        memcpy(&i, v->data, v->bytes);
        if (v->bytes == 0 || (v->data[v->bytes - 1] & 0x80)) {
            return -1;
        }
        u = (uint64_t)i;
        break;
    default:
        return -1;
    }
    *out = u;
    return 0;
}

int gguf_uint(const struct gguf *g, const char *key, uint64_t min, uint64_t max, uint64_t *out,
              struct claas_error *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    uint64_t u;
    if (!v) {
        return 0;
    }
    if (value_uint(v, &u)) {
        return wrong(g, key, "a whole number that is not negative", err);
    }
    if (u < min || u > max) {
        return err_set(err, CLAAS_ERR_CORRUPT, key,
                       "cannot use model file '%s': key '%s' is %" PRIu64 ", not from %" PRIu64 " to %" PRIu64, g->path,
                       key, u, min, max);
    }
    *out = u;
    return 0;
}

int gguf_real(const struct gguf *g, const char *key, double *out, struct claas_error *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) {
        return 0;
    }
    double d = NAN;
    if (v->type == GGUF_F32) {
        float f;
        memcpy(&f, v->data, sizeof f);
        d = (double)f;
    } else if (v->type == GGUF_F64) {
        memcpy(&d, v->data, sizeof d);
    }
    if (!isfinite(d)) {
        return wrong(g, key, "a finite number", err);
    }
    *out = d;
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, int *out, struct claas_error *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (v && v->type != GGUF_BOOL) {
        return wrong(g, key, "a bool", err);
    }
    *out = v ? v->data[0] : *out;
    return 0;
}

/* A string in the file: length, then the bytes; checked when the file was opened. */
static struct token_text text_at(const uint8_t *p)
{
    uint64_t n = 0;
    memcpy(&n, p, sizeof n);
    return (struct token_text){ (const char *)p + sizeof n, (size_t)n };
}

int gguf_text(const struct gguf *g, const char *key, struct token_text *out, struct claas_error *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (v && v->type != GGUF_STRING) {
        return wrong(g, key, "a string", err);
    }
    *out = v ? text_at(v->data) : *out;
    return 0;
}

int gguf_texts(const struct gguf *g, const char *key, struct token_text **out, size_t *n, struct claas_error *err)
{
    const struct gguf_value *v = gguf_find(g, key);
    *out = NULL;
    *n = 0;
    if (!v) {
        return 0;
    }
    if (v->type != GGUF_ARRAY || v->element != GGUF_STRING) {
        return wrong(g, key, "an array of strings", err);
    }
    struct token_text *texts = mem_array((size_t)v->count, sizeof *texts);
    if (!texts) {
        return err_oom(err, "reading a model's vocabulary");
    }
    const uint8_t *p = v->data;
    for (uint64_t i = 0; i < v->count; i++) {
        texts[i] = text_at(p);
        p += sizeof(uint64_t) + texts[i].n;
    }
    *out = texts;
    *n = (size_t)v->count;
    return 0;
}
