/* SPDX-License-Identifier: MIT */
/* Settings of a step: the engine's table with the core's own rows behind it, values from requests
 * over configured defaults, and every violation told at once. */
#include "config.h"

#include "feedback/internal.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct claas_option core_rows[] = {
    { .name = "steps_per_batch",
      .def = "1",
      .type = CLAAS_INT,
      .min = 1,
      .max = 64,
      .help = "updates made on one batch of feedback" },
    { .name = "train_end_token",
      .def = "true",
      .type = CLAAS_BOOL,
      .min = 1,
      .max = 0,
      .help = "train the token that ends the answer too, without which brevity cannot be learnt" },
};
enum { N_CORE = sizeof core_rows / sizeof core_rows[0] };

int feedback_table(struct host_instance *engine, struct option_table *out, struct claas_error *err)
{
    const struct host_engine_info *info = NULL;
    static const struct option_table none;
    int rc = engine == NULL ? 0 : host_engine_info(engine, &info, err);
    if (rc != 0) {
        return rc;
    }
    const struct option_table *theirs = info == NULL ? &none : info->settings;
    struct claas_option *rows =
        mem_array(theirs->n + N_CORE + 1, sizeof *rows); /* the last one ends it */
    if (rows == NULL) {
        return err_oom(err, "the table of training settings");
    }
    size_t n = theirs->n;
    if (n > 0) {
        memcpy(rows, theirs->rows, n * sizeof *rows);
    }
    for (size_t i = 0; i < N_CORE; i++) {
        if (option_find(theirs, core_rows[i].name) < 0) {
            rows[n++] = core_rows[i];
        }
    }
    rc = option_table_copy(rows, sizeof *rows, "training", out, err);
    free(rows);
    return rc;
}

void warn(cJSON *warnings, const char *fmt, ...)
{
    char line[256];
    va_list list;
    va_start(list, fmt);
    (void)vsnprintf(line, sizeof line, fmt, list);
    va_end(list);
    cJSON *text = warnings == NULL ? NULL : cJSON_CreateString(line);
    if (text != NULL && !cJSON_AddItemToArray(warnings, text)) {
        cJSON_Delete(text);
    }
}

/* What is wrong with each member, joined; the first one names the field. */
static int violations(const struct option_table *table, const cJSON *object,
                      const struct option_values *base, struct claas_error *err)
{
    struct buf all = BUF_INIT;
    char what[sizeof err->what] = "";
    const cJSON *member;
    cJSON_ArrayForEach(member, object) {
        struct claas_error one = ERR_INIT;
        struct option_values values = { 0 };
        cJSON *alone = cJSON_CreateObject();
        cJSON *copy = alone == NULL ? NULL : cJSON_Duplicate(member, 1);
        if (copy == NULL || !cJSON_AddItemToObject(alone, member->string, copy)) {
            cJSON_Delete(copy);
        } else if (option_find(table, member->string) >= 0 &&
                   option_values_from_json(&values, table, alone, base, NULL, NULL, &one) ==
                       CLAAS_ERR_INVALID) {
            buf_addf(&all, "%s%s", all.len > 0 ? "; " : "", one.message);
            if (what[0] == '\0') {
                memcpy(what, one.what, sizeof what);
            }
        }
        option_values_clear(&values);
        cJSON_Delete(alone);
    }
    int rc = all.len == 0 ? CLAAS_ERR_INVALID
                          : err_set(err, CLAAS_ERR_INVALID, what, "%s", buf_str(&all));
    buf_clear(&all);
    return rc;
}

static void ignore(void *ctx, const char *name)
{
    (void)ctx;
    (void)name;
}

int options_from(const struct option_table *table, const cJSON *object,
                 const struct option_values *base, option_unknown_fn unknown, void *ctx,
                 struct option_values *out, struct claas_error *err)
{
    int rc = option_values_from_json(out, table, object, base, unknown == NULL ? ignore : unknown,
                                     ctx, err);
    return rc == CLAAS_ERR_INVALID && cJSON_IsObject(object) ? violations(table, object, base, err)
                                                             : rc;
}

/* The items of a batch say the same: once is enough. */
static void on_unknown(void *ctx, const char *name)
{
    char line[256];
    const cJSON *said;
    (void)snprintf(line, sizeof line, "training setting '%.150s' is not known to the engine and was ignored", name);
    cJSON_ArrayForEach(said, (const cJSON *)ctx) {
        if (strcmp(said->valuestring, line) == 0) {
            return;
        }
    }
    warn(ctx, "%s", line);
}

/* The first name that is not in the table, null if there is none. */
static const char *unknown_name(const struct option_table *table, const cJSON *training)
{
    const cJSON *member;
    cJSON_ArrayForEach(member, training) {
        if (option_find(table, member->string) < 0) {
            return member->string;
        }
    }
    return NULL;
}

int settings_make(struct feedback *f, const cJSON *training, int strict, cJSON *warnings, struct settings *out,
                  struct claas_error *err)
{
    struct settings s = { .train_end = 1 };
    if (training != NULL && !cJSON_IsObject(training) && !cJSON_IsNull(training)) {
        return err_set(err, CLAAS_ERR_INVALID, "training",
                       "'training' must be an object of settings");
    }
    const char *stranger = strict ? unknown_name(&f->table, training) : NULL;
    if (stranger != NULL) {
        return err_set(err, CLAAS_ERR_INVALID, stranger,
                       "training setting '%.150s' is not known to the engine, and strict was asked for", stranger);
    }
    int rc = options_from(&f->table, cJSON_IsObject(training) ? training : NULL, f->training,
                          on_unknown, warnings, &s.values, err);
    if (rc != 0) {
        return rc;
    }
    /* Both rows are there: the core's, or the engine's of the same name, which then decides what it
     * does with it. */
    int steps = option_find(&f->table, core_rows[0].name);
    int end = option_find(&f->table, core_rows[1].name);
    s.steps = (uint32_t)s.values.values[steps].i;
    s.train_end = (size_t)end < f->table.n && s.values.values[end].i != 0;
    if (s.steps < 1 || s.steps > 64) {
        settings_clear(&s);
        return err_set(err, CLAAS_ERR_INVALID, "steps_per_batch",
                       "'steps_per_batch' must be from 1 to 64");
    }
    *out = s;
    return 0;
}

void settings_clear(struct settings *s)
{
    option_values_clear(&s->values);
}
