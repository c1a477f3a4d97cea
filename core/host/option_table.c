/* SPDX-License-Identifier: MIT */
/* Tables of options: private copies, and what a table must be before anybody relies on it. */
#include "config.h"

#include "host/option.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "host/option_parse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 256, NAME_MAX_BYTES = 64, TEXT_MAX_BYTES = 4096 };

void option_table_clear(struct option_table *table)
{
    free(table->rows);
    *table = (struct option_table){ 0 };
}

int option_find(const struct option_table *table, const char *name)
{
    for (size_t i = 0; i < table->n; i++) {
        if (strcmp(table->rows[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

/* [a-z][a-z0-9_]* joined by single dots. */
static int name_ok(const char *name)
{
    int start = 1;
    for (const char *c = name; *c; c++) {
        if (c - name >= NAME_MAX_BYTES) {
            return 0;
        }
        if (*c == '.') {
            if (start) {
                return 0;
            }
            start = 1;
            continue;
        }
        int letter = *c >= 'a' && *c <= 'z';
        int other = (*c >= '0' && *c <= '9') || *c == '_';
        if (!letter && (start || !other)) {
            return 0;
        }
        start = 0;
    }
    return !start;
}

static int text_ok(const char *s)
{
    size_t n = strnlen(s, TEXT_MAX_BYTES + 1);
    return n <= TEXT_MAX_BYTES && utf8_valid(s, n);
}

static int row_refuse(const char *owner, const struct claas_option *row, const char *why,
                      struct claas_error *err)
{
    return err_set(err, CLAAS_ERR_INVALID, owner, "%s: option '%.64s' of its table %s", owner,
                   row->name, why);
}

/* 1 if one name is the other with something nested below, or they are equal. */
static int names_clash(const char *a, const char *b)
{
    size_t n = strlen(a);
    return strncmp(a, b, n) == 0 && (b[n] == '\0' || b[n] == '.');
}

/* "api_key" a secret: "api_key_file" and "api_key_env" are taken. */
static int secret_clash(const struct claas_option *secret, const char *name)
{
    size_t n = strlen(secret->name);
    return (secret->flags & CLAAS_SECRET) && strncmp(secret->name, name, n) == 0 &&
           (strcmp(name + n, "_file") == 0 || strcmp(name + n, "_env") == 0);
}

static int row_names_check(const struct option_table *table, size_t i, const char *owner,
                           struct claas_error *err)
{
    const struct claas_option *row = &table->rows[i];
    for (size_t k = 0; k < table->n; k++) {
        const struct claas_option *other = &table->rows[k];
        if (k != i && (names_clash(row->name, other->name) || secret_clash(row, other->name))) {
            return row_refuse(owner, row, "stands there twice, or within another", err);
        }
    }
    return 0;
}

static int row_default_check(const struct claas_option *row, const char *owner,
                             struct claas_error *err)
{
    struct claas_option copy = *row;
    copy.flags &= ~(uint32_t)CLAAS_REQUIRED;
    struct option_table one = { .rows = &copy, .n = 1 };
    struct option_values values = { 0 };
    struct claas_error why = ERR_INIT;
    int rc = option_begin(&values, &one, err);
    if (rc == 0 && option_end(&values, NULL, &why) != 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, owner, "%s: default of option %.256s", owner,
                     why.message);
    }
    option_values_clear(&values);
    return rc;
}

static int row_check(const struct option_table *table, size_t i, const char *owner,
                     struct claas_error *err)
{
    const struct claas_option *row = &table->rows[i];
    if (!name_ok(row->name)) {
        return err_set(err, CLAAS_ERR_INVALID, owner,
                       "%s: an option is called '%.32s', expected [a-z][a-z0-9_]* joined by dots",
                       owner, text_ok(row->name) ? row->name : "?");
    }
    if (row->type > CLAAS_JSON) {
        return row_refuse(owner, row, "has a type this host does not know", err);
    }
    if (!row->help || row->help[0] == '\0' || !text_ok(row->help) ||
        (row->choices && (row->choices[0] == '\0' || !text_ok(row->choices))) ||
        (row->def && !text_ok(row->def))) {
        return row_refuse(owner, row, "lacks a help text, or has texts that are no UTF-8", err);
    }
    if (isnan(row->min) || isnan(row->max)) {
        return row_refuse(owner, row, "has bounds that are no numbers", err);
    }
    if ((row->flags & CLAAS_SECRET) && (row->type != CLAAS_TEXT || row->def || row->choices)) {
        return row_refuse(owner, row, "is a secret, hence must be text without a default", err);
    }
    if (row->choices && row->type != CLAAS_TEXT && row->type != CLAAS_LIST) {
        return row_refuse(owner, row, "has choices but is neither text nor a list", err);
    }
    int rc = row_names_check(table, i, owner, err);
    return rc != 0 ? rc : row_default_check(row, owner, err);
}

int option_table_copy(const struct claas_option *rows, uint32_t stride, const char *owner,
                      struct option_table *out, struct claas_error *err)
{
    struct option_table copy = { 0 };
    if (!rows) {
        *out = copy;
        return 0;
    }
    if (stride < offsetof(struct claas_option, flags) + sizeof rows->flags || stride > 4096 ||
        stride % sizeof(void *) != 0) {
        return err_set(err, CLAAS_ERR_INVALID, owner,
                       "%s: rows of its option table are %u bytes long, expected %zu", owner,
                       stride, sizeof *rows);
    }
    copy.rows = mem_array(ROWS_MAX, sizeof *copy.rows);
    if (!copy.rows) {
        return err_oom(err, "copying an option table");
    }
    for (const char *p = (const char *)rows;; p += stride, copy.n++) {
        struct claas_option row;
        memcpy(&row, p, sizeof row);
        if (!row.name) {
            break;
        }
        if (copy.n == ROWS_MAX) {
            option_table_clear(&copy);
            return err_set(err, CLAAS_ERR_INVALID, owner,
                           "%s: more than %d options, or no end of its table", owner, ROWS_MAX);
        }
        copy.rows[copy.n] = row;
    }
    int rc = 0;
    for (size_t i = 0; i < copy.n && rc == 0; i++) {
        rc = row_check(&copy, i, owner, err);
    }
    if (rc != 0) {
        option_table_clear(&copy);
        return rc;
    }
    *out = copy;
    return 0;
}
