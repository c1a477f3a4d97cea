/* SPDX-License-Identifier: MIT */
/* What a configuration that is read again may change. */
#include <config.h> /* not in quotes: config.h of this folder is another */

#include "config/fill.h"
#include "config/keys.h"
#include "config/node.h"

#include <stdio.h>
#include <string.h>

int config_reloadable(size_t row)
{
    static const unsigned char rows[KEYS_COUNT] = {
#define ROW(id) [KEY_##id] = 1,
        KEYS_RELOADABLE(ROW)
#undef ROW
    };
    return row < KEYS_COUNT && rows[row];
}

static int text_equal(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static int value_equal(const struct claas_value *a, const struct claas_value *b)
{
    int equal = a->i == b->i && !(a->d < b->d) && !(a->d > b->d) && text_equal(a->s, b->s) && a->n_list == b->n_list;
    for (uint32_t i = 0; equal && i < a->n_list; i++) {
        equal = strcmp(a->list[i], b->list[i]) == 0;
    }
    return equal;
}

static int node_equal(const struct config_node *a, const struct config_node *b)
{
    if (a == NULL || b == NULL || a->kind != b->kind || a->n != b->n) {
        return a == b;
    }
    int equal = a->kind != NODE_SCALAR || (a->plain == b->plain && strcmp(a->text, b->text) == 0);
    for (size_t i = 0; equal && i < a->n; i++) {
        const struct config_node *other = a->kind == NODE_MAP ? node_get(b, a->members[i].key) : b->members[i].value;
        equal = node_equal(a->members[i].value, other);
    }
    return equal;
}

/* Members of a's section that differ from b's; `missing`: only those that b lacks. */
static void section_differs(const struct config_section *a, const struct config_section *b, int missing,
                            config_fixed_fn fixed, void *ctx)
{
    for (size_t i = 0; a->node && i < a->node->n; i++) {
        const struct node_member *member = &a->node->members[i];
        const struct config_node *other = b->node ? node_get(b->node, member->key) : NULL;
        char key[160];
        (void)snprintf(key, sizeof key, "%s.%.128s", a->name, member->key);
        int told = option_find(config_table(), key) >= 0; /* a row, which has been compared */
        if (!told && (missing ? other == NULL : !node_equal(member->value, other))) {
            fixed(ctx, key);
        }
    }
}

static void tell_sections(const struct config *config, const struct config *boot, config_fixed_fn fixed, void *ctx)
{
    const struct config_section *const now[] = { &config->engine, &config->storage, &config->inference,
                                                 &config->training };
    const struct config_section *const was[] = { &boot->engine, &boot->storage, &boot->inference, &boot->training };
    for (size_t i = 0; i < sizeof now / sizeof now[0]; i++) {
        section_differs(now[i], was[i], 0, fixed, ctx);
        section_differs(was[i], now[i], 1, fixed, ctx);
    }
}

void config_rebase(struct config *config, const struct config *boot, config_fixed_fn fixed, void *ctx)
{
    struct claas_value mixed[KEYS_COUNT];
    for (size_t i = 0; i < KEYS_COUNT; i++) {
        const struct claas_value *was = &boot->values.values[i];
        const struct claas_value *now = &config->values.values[i];
        mixed[i] = config_reloadable(i) ? *now : *was;
        if (fixed && !config_reloadable(i) && !value_equal(now, was)) {
            fixed(ctx, config_table()->rows[i].name);
        }
    }
    if (fixed) {
        tell_sections(config, boot, fixed, ctx);
    }
    /* All as at the start, but what this one owns and what may change: a new key is fixed until somebody lets it go. */
    struct config all = *boot;
    all.file = config->file;
    all.values = config->values;
    all.root = config->root;
    all.origins = config->origins;
    all.text = config->text;
    all.log = config->log;
    fill_numbers(&all, mixed);
    *config = all;
}
