/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "host/option.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "host/option_parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const empty_list[] = { NULL };

static void value_clear(struct claas_value *value)
{
    free((void *)value->s);
    if (value->list != empty_list) {
        free((void *)value->list);
    }
    *value = (struct claas_value){ 0 };
}

void option_values_clear(struct option_values *values)
{
    for (size_t i = 0; values->table && i < values->table->n; i++) {
        if (values->values) {
            value_clear(&values->values[i]);
        }
        if (values->secrets) {
            free(values->secrets[i].file);
            free(values->secrets[i].env);
        }
    }
    free(values->values);
    free(values->secrets);
    *values = (struct option_values){ 0 };
}

int option_begin(struct option_values *out, const struct option_table *table,
                 struct claas_error *err)
{
    struct option_values fresh = { .table = table };
    fresh.values = mem_array(table->n, sizeof *fresh.values);
    fresh.secrets = mem_array(table->n, sizeof *fresh.secrets);
    if (!fresh.values || !fresh.secrets) {
        option_values_clear(&fresh);
        return err_oom(err, "reading options");
    }
    *out = fresh;
    return 0;
}

/* What every put does first. */
static int option_once(struct option_values *values, size_t i, struct claas_error *err)
{
    const struct claas_option *row = &values->table->rows[i];
    if (values->values[i].given) {
        return err_set(err, CLAAS_ERR_INVALID, row->name, "%s: given twice", row->name);
    }
    return 0;
}

static int option_literal(struct option_values *values, size_t i, struct claas_error *err)
{
    const struct claas_option *row = &values->table->rows[i];
    if (row->flags & CLAAS_SECRET) {
        return err_set(err, CLAAS_ERR_INVALID, row->name,
                       "%s: a secret must not stand here, name its file with %s_file or a variable "
                       "with %s_env",
                       row->name, row->name, row->name);
    }
    return option_once(values, i, err);
}

static int option_is_number(uint32_t type)
{
    return type == CLAAS_BOOL || type == CLAAS_INT || type == CLAAS_REAL || type == CLAAS_BYTES ||
           type == CLAAS_MS;
}

/* What was found, as it goes into a message. */
static int option_refuse_text(const struct claas_option *row, const char *text,
                              enum option_form form, struct claas_error *err)
{
    char found[128];
    if (form == OPTION_PLAIN && (*text == '\0' || strcmp(text, "~") == 0)) {
        (void)snprintf(found, sizeof found, "nothing");
    } else {
        (void)snprintf(found, sizeof found, "%s'%.80s'", form == OPTION_QUOTED ? "the text " : "",
                       text);
    }
    return option_refuse(row, found, err);
}

static int put_path(struct claas_value *value, const struct claas_option *row, const char *text,
                    const char *dir, struct claas_error *err)
{
    if (text[0] == '\0') {
        return option_refuse(row, "the empty text ''", err);
    }
    if (text[0] != '/' && !dir) {
        return err_set(err, CLAAS_ERR_INVALID, row->name,
                       "%s: expected an absolute path, found '%.100s'", row->name, text);
    }
    if (text[0] == '/') {
        value->s = mem_dup(text, strlen(text));
    } else {
        while (strncmp(text, "./", 2) == 0) {
            text += 2 + strspn(text + 2, "/");
        }
        size_t n = strlen(dir) + strlen(text) + 2;
        char *joined = mem_array(n, 1);
        if (joined) {
            (void)snprintf(joined, n, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, text);
        }
        value->s = joined;
    }
    return value->s ? 0 : err_oom(err, "reading options");
}

static int put_text(struct claas_value *value, const struct claas_option *row, const char *text,
                    enum option_form form, const char *dir, struct claas_error *err)
{
    int nothing = form == OPTION_PLAIN &&
                  (*text == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
    if (nothing || row->type == CLAAS_LIST || row->type == CLAAS_JSON) {
        return option_refuse_text(row, nothing ? "" : text, form, err);
    }
    if (option_is_number(row->type)) {
        if (form == OPTION_QUOTED || option_number(row, text, &value->i, &value->d) != 0) {
            return option_refuse_text(row, text, form, err);
        }
        return 0;
    }
    if (!option_chosen(row, text, strlen(text))) {
        return option_refuse_text(row, text, form, err);
    }
    if (row->type == CLAAS_PATH) {
        return put_path(value, row, text, dir, err);
    }
    value->s = mem_dup(text, strlen(text));
    return value->s ? 0 : err_oom(err, "reading options");
}

/* Pointers and texts in one block: one thing to free. */
static int put_list(struct claas_value *value, const struct claas_option *row,
                    const char *const *items, size_t n, struct claas_error *err)
{
    size_t bytes = (n + 1) * sizeof(char *);
    if (row->type != CLAAS_LIST ||
        (option_bounded(row) && ((double)n < row->min || (double)n > row->max))) {
        char found[64];
        (void)snprintf(found, sizeof found, "a list of %zu", n);
        return option_refuse(row, found, err);
    }
    for (size_t k = 0; k < n; k++) {
        if (!option_chosen(row, items[k], strlen(items[k]))) {
            return option_refuse_text(row, items[k], OPTION_PLAIN, err);
        }
        bytes += strlen(items[k]) + 1;
    }
    char **list = mem_array(bytes, 1);
    if (!list) {
        return err_oom(err, "reading options");
    }
    char *text = (char *)(list + n + 1);
    for (size_t k = 0; k < n; k++) {
        size_t size = strlen(items[k]) + 1;
        memcpy(text, items[k], size);
        list[k] = text;
        text += size;
    }
    value->list = (const char *const *)list;
    value->n_list = (uint32_t)n;
    return 0;
}

int option_put_text(struct option_values *values, size_t i, const char *text, enum option_form form,
                    const char *dir, struct claas_error *err)
{
    int rc = option_literal(values, i, err);
    if (rc == 0) {
        rc = put_text(&values->values[i], &values->table->rows[i], text, form, dir, err);
    }
    if (rc == 0) {
        values->values[i].given = 1;
    }
    return rc;
}

int option_put_list(struct option_values *values, size_t i, const char *const *items, size_t n,
                    struct claas_error *err)
{
    int rc = option_literal(values, i, err);
    if (rc == 0 && n > 65536) {
        rc = option_refuse(&values->table->rows[i], "more than 65536 members", err);
    }
    if (rc == 0) {
        rc = put_list(&values->values[i], &values->table->rows[i], items, n, err);
    }
    if (rc == 0) {
        values->values[i].given = 1;
    }
    return rc;
}

static int put_json_list(struct claas_value *value, const struct claas_option *row,
                         const cJSON *json, struct claas_error *err)
{
    size_t n = 0;
    for (const cJSON *item = json->child; item; item = item->next, n++) {
        if (!cJSON_IsString(item)) {
            return option_refuse(row, "a member that is not a text", err);
        }
    }
    const char **items = mem_array(n, sizeof *items);
    if (!items) {
        return err_oom(err, "reading options");
    }
    n = 0;
    for (const cJSON *item = json->child; item; item = item->next) {
        items[n++] = item->valuestring;
    }
    int rc = n > 65536 ? option_refuse(row, "more than 65536 members", err)
                       : put_list(value, row, items, n, err);
    free((void *)items);
    return rc;
}

static const char *json_kind(const cJSON *json)
{
    return cJSON_IsObject(json)   ? "an object"
           : cJSON_IsArray(json)  ? "a list"
           : cJSON_IsString(json) ? "a text"
           : cJSON_IsNumber(json) ? "a number"
           : cJSON_IsNull(json)   ? "null"
                                  : "a truth value";
}

static int put_json(struct claas_value *value, const struct claas_option *row, const cJSON *json,
                    struct claas_error *err)
{
    uint32_t type = row->type;
    if (type == CLAAS_JSON) {
        value->s = json_print(json);
        return value->s ? 0 : err_oom(err, "reading options");
    }
    if (type == CLAAS_BOOL && cJSON_IsBool(json)) {
        value->i = cJSON_IsTrue(json);
        value->d = (double)value->i;
        return 0;
    }
    if (option_is_number(type) && type != CLAAS_BOOL && cJSON_IsNumber(json)) {
        char found[64];
        (void)snprintf(found, sizeof found, "%.17g", json->valuedouble);
        return option_judge(row, json->valuedouble, &value->i, &value->d) == 0
                   ? 0
                   : option_refuse(row, found, err);
    }
    if (type == CLAAS_LIST && cJSON_IsArray(json)) {
        return put_json_list(value, row, json, err);
    }
    if (cJSON_IsString(json) && (type == CLAAS_BYTES || type == CLAAS_MS)) {
        return put_text(value, row, json->valuestring, OPTION_PLAIN, NULL, err);
    }
    if (cJSON_IsString(json) && (type == CLAAS_TEXT || type == CLAAS_PATH)) {
        return put_text(value, row, json->valuestring, OPTION_QUOTED, NULL, err);
    }
    return option_refuse(row, json_kind(json), err);
}

int option_put_json(struct option_values *values, size_t i, const cJSON *json,
                    struct claas_error *err)
{
    int rc = option_literal(values, i, err);
    if (rc == 0) {
        rc = put_json(&values->values[i], &values->table->rows[i], json, err);
    }
    if (rc == 0) {
        values->values[i].given = 1;
    }
    return rc;
}

int option_put_secret(struct option_values *values, size_t i, const char *file, const char *env,
                      struct claas_error *err)
{
    const struct claas_option *row = &values->table->rows[i];
    int rc = option_once(values, i, err);
    if (rc != 0) {
        return rc;
    }
    const char *source = file ? file : env;
    if (!source || (file && env) || *source == '\0') {
        return err_set(err, CLAAS_ERR_INVALID, row->name,
                       "%s: expected the name of one file or of one variable", row->name);
    }
    char *copy = mem_dup(source, strlen(source));
    if (!copy) {
        return err_oom(err, "reading options");
    }
    *(file ? &values->secrets[i].file : &values->secrets[i].env) = copy;
    values->values[i].given = 1;
    return 0;
}

/* "a,b,c" of a table's default. */
static int default_list(struct claas_value *value, const struct claas_option *row,
                        struct claas_error *err)
{
    char *text = mem_dup(row->def, strlen(row->def));
    const char *items[256];
    size_t n = 0;
    if (!text) {
        return err_oom(err, "reading options");
    }
    for (char *p = text; *p && n < sizeof items / sizeof items[0];) {
        size_t len = strcspn(p, ",");
        int more = p[len] == ',';
        p[len] = '\0';
        items[n++] = p;
        p += len + (size_t)more;
    }
    int rc = put_list(value, row, items, n, err);
    free(text);
    return rc;
}

static int option_default(struct claas_value *value, const struct claas_option *row,
                          struct claas_error *err)
{
    if (row->def && row->type == CLAAS_LIST) {
        return default_list(value, row, err);
    }
    if (row->def && row->type == CLAAS_JSON) {
        cJSON *json = NULL;
        int rc = json_parse(row->def, strlen(row->def), row->name, &json, err);
        cJSON_Delete(json);
        value->s = rc == 0 ? mem_dup(row->def, strlen(row->def)) : NULL;
        return rc != 0 ? rc : value->s ? 0 : err_oom(err, "reading options");
    }
    if (row->def && (option_is_number(row->type) || row->def[0] != '\0')) {
        return put_text(value, row, row->def,
                        option_is_number(row->type) ? OPTION_PLAIN : OPTION_QUOTED, "/", err);
    }
    if (row->type == CLAAS_LIST) {
        value->list = empty_list;
    } else if (!option_is_number(row->type)) {
        value->s = mem_dup("", 0);
        return value->s ? 0 : err_oom(err, "reading options");
    }
    return 0;
}

int option_end(struct option_values *values, int *out_missing, struct claas_error *err)
{
    if (out_missing) {
        *out_missing = -1;
    }
    for (size_t i = 0; i < values->table->n; i++) {
        const struct claas_option *row = &values->table->rows[i];
        struct claas_value *value = &values->values[i];
        if (!value->given && (row->flags & CLAAS_REQUIRED)) {
            if (out_missing) {
                *out_missing = (int)i;
            }
            char expected[OPTION_EXPECT_CAP];
            option_expect(row, expected);
            return err_set(err, CLAAS_ERR_INVALID, row->name, "%s is required: %s (%s)", row->name,
                           expected, row->help);
        }
        /* A secret that was given has no text here. */
        int filled = value->given && (option_is_number(row->type) || value->s || value->list);
        int rc = filled ? 0 : option_default(value, row, err);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}
