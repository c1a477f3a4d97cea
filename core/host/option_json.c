/* SPDX-License-Identifier: MIT */
/* Values from a request's JSON and back, and the text of secrets. */
#include "config.h"

#include "host/option.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "host/option_parse.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_CAP = 128 };

struct source {
    struct option_values *values;
    option_unknown_fn unknown;
    void *ctx;
    struct claas_error *err;
};

/* 1 if some row lies below "name.". */
static int has_below(const struct option_table *table, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < table->n; i++) {
        if (strncmp(table->rows[i].name, name, n) == 0 && table->rows[i].name[n] == '.') {
            return 1;
        }
    }
    return 0;
}

static int take_object(struct source *source, const cJSON *object, const char *prefix);

static int take_member(struct source *source, const cJSON *item, const char *prefix)
{
    char name[NAME_CAP];
    int n = snprintf(name, sizeof name, "%s%s", prefix, item->string);
    int fits = n < (int)sizeof name && !strchr(item->string, '.');
    int i = fits ? option_find(source->values->table, name) : -1;
    if (i >= 0) {
        return cJSON_IsNull(item) ? 0
                                  : option_put_json(source->values, (size_t)i, item, source->err);
    }
    if (fits && has_below(source->values->table, name)) {
        if (cJSON_IsNull(item)) {
            return 0;
        }
        if (!cJSON_IsObject(item)) {
            return err_set(source->err, CLAAS_ERR_INVALID, name, "%s: expected an object", name);
        }
        (void)snprintf(name, sizeof name, "%s%s.", prefix, item->string);
        return take_object(source, item, name);
    }
    if (!source->unknown) {
        return err_set(source->err, CLAAS_ERR_INVALID, name, "%s: there is no such option", name);
    }
    source->unknown(source->ctx, name);
    return 0;
}

/* Depth is bounded by the table's names: only prefixes of those are entered. */
static int take_object(struct source *source, const cJSON *object, const char *prefix)
{
    int rc = 0;
    for (const cJSON *item = object->child; item && rc == 0; item = item->next) {
        rc = take_member(source, item, prefix);
    }
    return rc;
}

static int copy_value(struct option_values *values, size_t i, const struct option_values *base,
                      struct claas_error *err)
{
    const struct claas_value *from = &base->values[i];
    struct claas_value *to = &values->values[i];
    int rc = 0;
    if (values->table->rows[i].type == CLAAS_LIST) {
        rc = option_put_list(values, i, from->list, from->n_list, err);
    } else if (from->s) {
        to->s = mem_dup(from->s, strlen(from->s));
        rc = to->s ? 0 : err_oom(err, "reading options");
    }
    to->i = from->i;
    to->d = from->d;
    to->given = from->given;
    return rc;
}

/* What stands in base and was not said again: held aside until the defaults are in. */
static int take_base(struct option_values *values, const struct option_values *base,
                     struct claas_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < values->table->n && rc == 0; i++) {
        if (!values->values[i].given && base->values[i].given &&
            !(values->table->rows[i].flags & CLAAS_SECRET)) {
            rc = copy_value(values, i, base, err);
        }
    }
    return rc;
}

int option_values_from_json(struct option_values *out, const struct option_table *table,
                            const cJSON *object, const struct option_values *base,
                            option_unknown_fn unknown, void *ctx, struct claas_error *err)
{
    struct option_values values = { 0 };
    if (object && !cJSON_IsNull(object) && !cJSON_IsObject(object)) {
        return err_set(err, CLAAS_ERR_INVALID, "", "expected an object of options");
    }
    int rc = option_begin(&values, table, err);
    struct source source = { .values = &values, .unknown = unknown, .ctx = ctx, .err = err };
    if (rc == 0 && object) {
        rc = take_object(&source, object, "");
    }
    if (rc == 0 && base && base->table) {
        rc = take_base(&values, base, err);
    }
    if (rc == 0) {
        rc = option_end(&values, NULL, err);
    }
    if (rc != 0) {
        option_values_clear(&values);
        return rc;
    }
    *out = values;
    return 0;
}

static cJSON *value_json(const struct claas_option *row, const struct claas_value *value)
{
    switch (row->type) {
    case CLAAS_BOOL:
        return cJSON_CreateBool(value->i != 0);
    case CLAAS_INT:
    case CLAAS_BYTES:
    case CLAAS_MS:
    case CLAAS_REAL:
        return cJSON_CreateNumber(value->d);
    case CLAAS_LIST:
        return cJSON_CreateStringArray(value->list, (int)value->n_list);
    case CLAAS_JSON:
        return value->s[0] ? cJSON_Parse(value->s) : cJSON_CreateNull();
    default:
        return cJSON_CreateString(value->s);
    }
}

/* The object that holds the last part of a dotted name, made on the way. */
static cJSON *json_parent(cJSON *root, const char *name, const char **out_last)
{
    const char *dot = strchr(name, '.');
    while (root && dot) {
        char part[NAME_CAP];
        (void)snprintf(part, sizeof part, "%.*s", (int)(dot - name), name);
        cJSON *next = cJSON_GetObjectItemCaseSensitive(root, part);
        root = next ? next : cJSON_AddObjectToObject(root, part);
        name = dot + 1;
        dot = strchr(name, '.');
    }
    *out_last = name;
    return root;
}

cJSON *option_values_json(const struct option_values *values)
{
    cJSON *root = cJSON_CreateObject();
    for (size_t i = 0; root && values->table && i < values->table->n; i++) {
        const struct claas_option *row = &values->table->rows[i];
        if (row->flags & CLAAS_SECRET) {
            continue;
        }
        const char *last = NULL;
        cJSON *parent = json_parent(root, row->name, &last);
        cJSON *item = value_json(row, &values->values[i]);
        if (!parent || !item || !cJSON_AddItemToObject(parent, last, item)) {
            cJSON_Delete(item);
            cJSON_Delete(root);
            return NULL;
        }
    }
    return root;
}

static int secret_from_file(const char *name, const char *path, struct buf *text,
                            struct claas_error *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && (!S_ISREG(st.st_mode) || (st.st_mode & 07077) != 0)) {
        return err_set(
            err, CLAAS_ERR_FORBIDDEN, name,
            "cannot use '%s' for %s: it must be a file that only its owner can read (mode 0600)",
            path, name);
    }
    int rc = file_read(path, 65536, text, err);
    if (rc == 0 && text->len > 0 && text->data[text->len - 1] == '\n') {
        buf_cut(text, text->len - 1);
    }
    return rc;
}

int option_secret_read(const struct option_values *values, size_t i, char *buf, size_t cap,
                       struct claas_error *err)
{
    if (!values->table || i >= values->table->n || !(values->table->rows[i].flags & CLAAS_SECRET)) {
        return err_set(err, CLAAS_ERR_INVALID, "", "option %zu is no secret", i);
    }
    const char *name = values->table->rows[i].name;
    const struct option_secret *secret = &values->secrets[i];
    struct buf text = BUF_INIT;
    int rc = 0;
    if (secret->file) {
        rc = secret_from_file(name, secret->file, &text, err);
    } else if (secret->env && getenv(secret->env)) {
        buf_adds(&text, getenv(secret->env));
    } else {
        rc = secret->env
                 ? err_set(err, CLAAS_ERR_NOT_FOUND, name, "%s: the variable '%s' is not set", name,
                           secret->env)
                 : err_set(err, CLAAS_ERR_NOT_FOUND, name, "%s: no secret was configured", name);
    }
    if (rc == 0 && text.failed) {
        rc = err_oom(err, "reading a secret");
    }
    if (rc == 0 && (memchr(buf_str(&text), 0, text.len) || !utf8_valid(buf_str(&text), text.len))) {
        rc = err_set(err, CLAAS_ERR_INVALID, name, "%s: the secret is not one text of UTF-8", name);
    }
    if (rc == 0 && text.len >= cap) {
        rc = err_set(err, CLAAS_ERR_EXHAUSTED, name, "%s: the secret is longer than %zu bytes",
                     name, cap);
    }
    if (rc == 0) {
        memcpy(buf, buf_str(&text), text.len + 1);
    }
    if (text.data) {
        explicit_bzero(text.data, text.len);
    }
    buf_clear(&text);
    return rc;
}
