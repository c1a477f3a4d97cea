/* SPDX-License-Identifier: MIT */
/* Configurations: the core's keys, the sections of plugins by a table with an option of each type, and the way back to
 * YAML. */
#include "config.h"

#include "fuzz.h"

#include "config/config.h"

#include <string.h>

static const struct claas_option rows[] = {
    { .name = "root", .type = CLAAS_PATH, .flags = CLAAS_REQUIRED, .help = "where" },
    { .name = "sync", .type = CLAAS_BOOL, .def = "true", .help = "whether" },
    { .name = "model", .type = CLAAS_TEXT, .help = "which" },
    { .name = "mode", .type = CLAAS_TEXT, .def = "a", .choices = "a|b", .help = "one of two" },
    { .name = "threads", .type = CLAAS_INT, .max = 64, .help = "how many" },
    { .name = "share", .type = CLAAS_REAL, .def = "0.5", .max = 1, .help = "how much" },
    { .name = "room", .type = CLAAS_BYTES, .def = "64MiB", .help = "how large" },
    { .name = "wait.first", .type = CLAAS_MS, .def = "2s", .help = "how long" },
    { .name = "names", .type = CLAAS_LIST, .def = "x,y", .help = "who" },
    { .name = "rest", .type = CLAAS_JSON, .help = "what else" },
    { .name = "key", .type = CLAAS_TEXT, .flags = CLAAS_SECRET, .help = "a secret" },
    { .name = NULL },
};

static const struct option_table *table(void)
{
    static struct option_table t;
    struct claas_error err = ERR_INIT;
    if (!t.rows) {
        FUZZ_TRUE(option_table_copy(rows, sizeof rows[0], "fuzz", &t, &err) == 0);
    }
    return &t;
}

static void print(const struct config *c, const struct config_print_section *sections, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct buf text = BUF_INIT;
    int rc = config_print(c, sections, n, &text, &err);
    FUZZ_ERROR(rc, err);
    buf_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct config *c = NULL;
    int rc = config_parse((const char *)data, n, "fuzz.yaml", "/nowhere", &c, &err);
    FUZZ_ERROR(rc, err);
    if (rc) {
        FUZZ_TRUE(c == NULL);
        return 0;
    }
    const struct config_section *sections[] = { &c->engine, &c->storage, &c->inference, &c->training };
    struct config_print_section known[4];
    struct option_values values[4] = { 0 };
    for (size_t i = 0; i < 4; i++) {
        rc = config_section_values(c, sections[i], table(), &values[i], &err);
        FUZZ_ERROR(rc, err);
        known[i] = (struct config_print_section){ sections[i], rc == 0 ? &values[i] : NULL };
        (void)config_section_blame(c, sections[i], "root", &err);
    }
    print(c, known, 4);
    for (size_t i = 0; i < 4; i++) {
        option_values_clear(&values[i]);
    }
    config_free(c);
    return 0;
}
