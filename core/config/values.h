/* SPDX-License-Identifier: MIT */
/* From a map of YAML to the values of an option table, with positions in every refusal. */
#ifndef CONFIG_VALUES_H
#define CONFIG_VALUES_H

#include "config/node.h"
#include "host/option.h"

/* map may be null (nothing given); at: what to blame for missing keys; open: names of sections
 * (null-terminated, or null) whose unknown keys are left for others; skip: keys of this map that
 * are somebody else's (the same). `title` names the map in messages ("engine", "" for the whole
 * file). On failure *out is empty. */
struct values_request {
    const struct config_node *map;
    struct node_place at;
    const struct option_table *table;
    const char *const *open;
    const char *const *skip;
    const char *title;
};

int values_from_node(const struct values_request *request, struct option_values *out,
                     struct claas_error *err);

#endif
