/* SPDX-License-Identifier: MIT */
/* Options as data: from a table (struct claas_option) and what somebody wrote to checked values
 * (struct claas_value). One path for all sources: configuration files feed in scalars of YAML,
 * requests feed in JSON; types, units, bounds, choices, defaults and what is required are judged
 * here. Knows nothing of files or positions. */
#ifndef HOST_OPTION_H
#define HOST_OPTION_H

#include <cjson/cJSON.h>
#include <claas/error.h>
#include <claas/option.h>

#include <stddef.h>
#include <stdint.h>

/* A checked private copy of a table, so that nobody else minds its stride or its end. All zero is
 * an empty table. The texts stay with their owner (a module is never unloaded). */
struct option_table {
    struct claas_option *rows;
    size_t n;
};

/* Copies a table whose rows are `stride` bytes apart (null: empty).
 * Refused (INVALID, naming `owner` and the row): more than 256 rows, names that are not
 * [a-z][a-z0-9_]* joined by dots or occur twice, unknown types, missing help, a default that fails
 * its own check, secrets with a default. */
int option_table_copy(const struct claas_option *rows, uint32_t stride, const char *owner,
                      struct option_table *out, struct claas_error *err);
void option_table_clear(struct option_table *table);

/* The row with this name, or -1. */
int option_find(const struct option_table *table, const char *name);

/* What a person calls the type: "a whole number", "text", … */
const char *option_type_name(uint32_t type);

/* Where a secret's text is. */
struct option_secret {
    char *file; /* or null */
    char *env;  /* or null: name of a variable */
};

/* The values of one table, in its order, owning all they point to. values[i].s is never null for
 * TEXT, PATH, JSON and SECRET options ("" when nothing was given and there is no default; always ""
 * for secrets); .list never for LIST; .d equals .i for whole numbers. All zero is empty. */
struct option_values {
    const struct option_table *table; /* borrowed: outlives the values */
    struct claas_value *values;       /* [table->n] */
    struct option_secret *secrets;    /* [table->n] */
};

void option_values_clear(struct option_values *values);

/* ---- building: begin, put each thing that was written, end -------------------------------- */

/* Empty values of a table, which must outlive them. */
int option_begin(struct option_values *out, const struct option_table *table,
                 struct claas_error *err);

/* What a text is: YAML tells a plain 5 from a quoted "5". */
enum option_form { OPTION_PLAIN, OPTION_QUOTED };

/* Sets row i (once: twice is INVALID) from text in one of its spellings: true/false, 12, 0.5,
 * 64MiB, 2s. INVALID with what = the option's name and "expected …, found …" otherwise; a list of
 * one for LIST is not accepted (use option_put_list). Paths must be absolute or are joined to `dir`
 * (null: refused). */
int option_put_text(struct option_values *values, size_t i, const char *text, enum option_form form,
                    const char *dir, struct claas_error *err);
/* Sets a LIST. */
int option_put_list(struct option_values *values, size_t i, const char *const *items, size_t n,
                    struct claas_error *err);
/* Sets row i from JSON: numbers for numbers, texts for texts, "2s" or 2000 for MS, anything for
 * JSON. */
int option_put_json(struct option_values *values, size_t i, const cJSON *json,
                    struct claas_error *err);
/* Says where a secret is: exactly one of file and env. */
int option_put_secret(struct option_values *values, size_t i, const char *file, const char *env,
                      struct claas_error *err);
/* Fills in defaults. *out_missing (may be null): the first required row that is not given, -1
 * otherwise; INVALID. */
int option_end(struct option_values *values, int *out_missing, struct claas_error *err);

/* ---- whole sources -------------------------------------------------------------------------- */

/* Who hears of members that are in no row, once for each; null: refuse them (INVALID). */
typedef void (*option_unknown_fn)(void *ctx, const char *name);

/* Values from a JSON object (null: none given) whose nested members match dotted names. JSON null
 * counts as not given. Secrets are refused. Options not given take their value from `base` when
 * there is one (values of the same table, such as the configured defaults of a step), else the
 * table's default. On failure *out is empty. */
int option_values_from_json(struct option_values *out, const struct option_table *table,
                            const cJSON *object, const struct option_values *base,
                            option_unknown_fn unknown, void *ctx, struct claas_error *err);

/* The values as a JSON object with dotted names nested, secrets left out; null when out of memory.
 * For manifests. */
cJSON *option_values_json(const struct option_values *values);

/* The text a secret has now (files are read again, one trailing newline is cut) in buf with a zero
 * behind. NOT_FOUND when none was given, FORBIDDEN when the file is readable by others. */
int option_secret_read(const struct option_values *values, size_t i, char *buf, size_t cap,
                       struct claas_error *err);

#endif
