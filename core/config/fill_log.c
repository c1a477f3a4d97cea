/* SPDX-License-Identifier: MIT */
#include <config.h> /* not in quotes: config.h of this folder is another */

#include "config/fill.h"

#include "config/keys.h"
#include "config/node.h"

#include <stdio.h>
#include <string.h>

static int refuse_room(const struct node_member *member, struct claas_error *err)
{
    char known[256] = "";
    for (int i = 0; i < LOG_ROOMS; i++) {
        size_t n = strlen(known);
        (void)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", log_room_name(i));
    }
    return node_refuse(&member->place, "log.levels", err, "unknown subsystem '%.64s' in log.levels, expected one of: %s",
                       member->key, known);
}

static int fill_room(struct config *config, const struct node_member *member, struct claas_error *err)
{
    const struct config_node *value = member->value;
    int room = log_room_find(member->key);
    int level = value->kind == NODE_SCALAR ? log_level_parse(value->text) : -1;
    if (room < 0 || strchr(member->key, ' ')) {
        return refuse_room(member, err);
    }
    if (level < 0) {
        return node_refuse(&value->place, "log.levels", err,
                           "log.levels.%s: expected one of 'error', 'warning', 'info', 'debug', 'trace'", member->key);
    }
    config->log.rooms[room] = level;
    return 0;
}

int fill_log(struct config *config, struct claas_error *err)
{
    static const char *const formats[] = { "auto", "plain", "journal", "json" };
    const struct claas_value *v = config->values.values;
    const struct config_node *log = node_get(config->root, "log");
    const struct config_node *levels = log && log->kind == NODE_MAP ? node_get(log, "levels") : NULL;
    int rc = 0;
    log_settings_init(&config->log);
    config->log.level = log_level_parse(v[KEY_LOG_LEVEL].s);
    for (int i = 0; i < 4; i++) {
        config->log.format = strcmp(v[KEY_LOG_FORMAT].s, formats[i]) == 0 ? (enum log_format)i : config->log.format;
    }
    if (!levels || node_is_nothing(levels)) {
        return 0;
    }
    if (levels->kind != NODE_MAP) {
        return node_refuse(&levels->place, "log.levels", err, "log.levels: expected subsystems with their levels");
    }
    for (size_t i = 0; i < levels->n && rc == 0; i++) {
        rc = fill_room(config, &levels->members[i], err);
    }
    return rc;
}
