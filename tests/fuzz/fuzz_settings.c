/* SPDX-License-Identifier: MIT */
/* Training settings and creation parameters of the local engine, as requests send them in JSON. */
#include "config.h"

#include "fuzz.h"

#include "base/json.h"
#include "host/option.h"
#include "plugins/local/train.h"

#include <math.h>

static const struct option_table *table(int creation)
{
    static struct option_table t[2];
    struct claas_error err = ERR_INIT;
    const struct claas_option *rows = creation ? train_creation : train_options;
    if (!t[creation].rows) {
        FUZZ_TRUE(option_table_copy(rows, sizeof rows[0], "fuzz", &t[creation], &err) == 0);
    }
    return &t[creation];
}

static void unknown(void *ctx, const char *name)
{
    ++*(int *)ctx;
    FUZZ_TRUE(name[0] != '\0' || *(int *)ctx > 0);
}

/* Accepted numbers are within their bounds. */
static void are_judged(const struct option_values *v)
{
    for (size_t i = 0; i < v->table->n; i++) {
        const struct claas_option *row = &v->table->rows[i];
        if ((row->type == CLAAS_INT || row->type == CLAAS_REAL) && row->min <= row->max &&
            (row->min != 0 || row->max != 0)) {
            FUZZ_TRUE(isfinite(v->values[i].d) && v->values[i].d >= row->min && v->values[i].d <= row->max);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    cJSON *json = NULL;
    if (json_parse((const char *)data, n, "settings", &json, &err) != 0) {
        return 0;
    }
    for (int creation = 0; creation <= 1; creation++) {
        struct option_values values = { 0 };
        int seen = 0;
        int rc = option_values_from_json(&values, table(creation), json, NULL, unknown, &seen, &err);
        FUZZ_ERROR(rc, err);
        if (rc == 0) {
            are_judged(&values);
            cJSON *again = option_values_json(&values);
            FUZZ_TRUE(again != NULL);
            cJSON_Delete(again);
        }
        option_values_clear(&values);
    }
    cJSON_Delete(json);
    return 0;
}
