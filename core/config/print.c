/* SPDX-License-Identifier: MIT */
/* The effective configuration as YAML, for claasd -T: what it prints can be read again. */
#include <config.h> /* not in quotes: config.h of this folder is another */

#include "config/config.h"

#include "base/err.h"
#include "config/node.h"
#include "host/option_parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A text in double quotes: always right, whatever is in it. */
static void print_text(struct buf *out, const char *text)
{
    buf_addc(out, '"');
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\') {
            buf_addc(out, '\\');
            buf_addc(out, *c);
        } else if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            buf_addf(out, "\\x%02x", (unsigned)(unsigned char)*c);
        } else {
            buf_addc(out, *c);
        }
    }
    buf_addc(out, '"');
}

static void print_indent(struct buf *out, int depth)
{
    for (int i = 0; i < depth; i++) {
        buf_adds(out, "  ");
    }
}

static void print_list(struct buf *out, const struct claas_value *value)
{
    buf_addc(out, '[');
    for (uint32_t i = 0; i < value->n_list; i++) {
        buf_adds(out, i ? ", " : "");
        print_text(out, value->list[i]);
    }
    buf_addc(out, ']');
}

static void print_value(struct buf *out, const struct claas_option *row,
                        const struct claas_value *value)
{
    char spelled[OPTION_SPELL_CAP];
    switch (row->type) {
    case CLAAS_TEXT:
    case CLAAS_PATH:
        print_text(out, value->s);
        break;
    case CLAAS_LIST:
        print_list(out, value);
        break;
    case CLAAS_JSON:
        /* JSON is YAML in flow style. */
        buf_adds(out, value->s[0] ? value->s : "null");
        break;
    default:
        option_spell(row, value, spelled);
        buf_adds(out, spelled);
        break;
    }
    buf_addc(out, '\n');
}

/* Opens and closes the maps between the name before and this one; returns the last part, with
 * *depth below `base`. */
static const char *print_path(struct buf *out, const char *before, const char *name, int base,
                              int *depth)
{
    const char *part = name;
    const char *dot = NULL;
    *depth = base;
    for (; (dot = strchr(part, '.')); part = dot + 1) {
        size_t n = (size_t)(dot - name) + 1;
        if (strncmp(before, name, n) != 0) {
            print_indent(out, *depth);
            buf_addf(out, "%.*s:\n", (int)(dot - part), part);
        }
        (*depth)++;
    }
    return part;
}

/* Rows from `from` to `to`, whose names begin behind `skip` bytes. */
static void print_rows(struct buf *out, const struct option_values *values, size_t from, size_t to,
                       size_t skip, int base)
{
    const char *before = "";
    for (size_t i = from; i < to; i++) {
        const struct claas_option *row = &values->table->rows[i];
        const struct claas_value *value = &values->values[i];
        const struct option_secret *secret = &values->secrets[i];
        int depth = base;
        int nothing = !value->given && !row->def && row->type != CLAAS_LIST;
        if (nothing) {
            continue;
        }
        const char *last = print_path(out, before, row->name + skip, base, &depth);
        before = row->name + skip;
        print_indent(out, depth);
        if (row->flags & CLAAS_SECRET) {
            buf_addf(out, "%s_%s: ", last, secret->file ? "file" : "env");
            print_text(out, secret->file ? secret->file : secret->env ? secret->env : "");
            buf_addc(out, '\n');
        } else {
            buf_addf(out, "%s: ", last);
            print_value(out, row, value);
        }
    }
}

/* As written, for a section whose table is not known. A secret cannot stand in it by its form only
 * where the table is known: values are therefore left out, keys are shown. */
static void print_node(struct buf *out, const struct config_node *node)
{
    for (size_t i = 0; node && i < node->n; i++) {
        if (strcmp(node->members[i].key, "plugin") != 0 &&
            strcmp(node->members[i].key, "shares_device") != 0) {
            buf_addf(out, "  # %s: (not checked: its plugin is not loaded)\n",
                     node->members[i].key);
        }
    }
}

/* A scalar as it was written: what is plain stays so, since only then it is a number or a switch. */
static void print_scalar(struct buf *out, const struct config_node *node)
{
    static const char simple[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    if (node_is_nothing(node)) {
        buf_adds(out, "null");
    } else if (node->plain && node->text[strspn(node->text, simple)] == '\0') {
        buf_adds(out, node->text);
    } else {
        print_text(out, node->text);
    }
}

/* On one line, in flow style. */
static void print_written(struct buf *out, const struct config_node *node)
{
    if (node->kind == NODE_SCALAR) {
        print_scalar(out, node);
        return;
    }
    buf_addc(out, node->kind == NODE_LIST ? '[' : '{');
    for (size_t i = 0; i < node->n; i++) {
        buf_adds(out, i ? ", " : "");
        if (node->kind == NODE_MAP) {
            print_text(out, node->members[i].key);
            buf_adds(out, ": ");
        }
        print_written(out, node->members[i].value);
    }
    buf_addc(out, node->kind == NODE_LIST ? ']' : '}');
}

/* Settings of a step: their table is told by the engine once it is open. Requests carry them too, so none is a secret. */
static void print_settings(struct buf *out, const struct config_node *node)
{
    buf_adds(out, "  # as written: the engine checks them when it opens, and has defaults for the others\n");
    for (size_t i = 0; i < node->n; i++) {
        buf_adds(out, "  ");
        print_text(out, node->members[i].key);
        buf_adds(out, ": ");
        print_written(out, node->members[i].value);
        buf_addc(out, '\n');
    }
}

static const struct option_values *values_of(const struct config_section *section,
                                             const struct config_print_section *sections, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (sections[i].section == section) {
            return sections[i].values;
        }
    }
    return NULL;
}

static void print_section(struct buf *out, const struct config *config,
                          const struct config_section *section, const struct option_values *values)
{
    const struct option_table *table = config_table();
    char prefix[32];
    int n = snprintf(prefix, sizeof prefix, "%s.", section->name);
    if (!section->node && !values) {
        return;
    }
    buf_addf(out, "%s:\n", section->name);
    for (size_t i = 0; i < table->n; i++) {
        if (strncmp(table->rows[i].name, prefix, (size_t)n) == 0) {
            print_rows(out, &config->values, i, i + 1, (size_t)n, 1);
        }
    }
    if (values && values->table) {
        print_rows(out, values, 0, values->table->n, 0, 1);
    } else if (section == &config->training) {
        print_settings(out, section->node);
    } else {
        print_node(out, section->node);
    }
}

int config_print(const struct config *config, const struct config_print_section *sections, size_t n,
                 struct buf *out, struct claas_error *err)
{
    const struct config_section *const all[] = { &config->engine, &config->storage,
                                                 &config->inference, &config->training };
    const struct option_table *table = config_table();
    size_t from = 0;
    for (size_t i = 0; i <= table->n; i++) {
        int section = 0;
        for (size_t k = 0; i < table->n && k < sizeof all / sizeof all[0]; k++) {
            size_t len = strlen(all[k]->name);
            section |= strncmp(table->rows[i].name, all[k]->name, len) == 0 &&
                       table->rows[i].name[len] == '.';
        }
        if (section || i == table->n) {
            print_rows(out, &config->values, from, i, 0, 0);
            from = i + 1;
        }
    }
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
        print_section(out, config, all[k], values_of(all[k], sections, n));
    }
    return out->failed ? err_oom(err, "printing the configuration") : 0;
}
