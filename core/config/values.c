/* SPDX-License-Identifier: MIT */
#include <config.h> /* not in quotes: config.h of this folder is another */

#include "config/values.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_CAP = 256 };

struct walk {
    const struct values_request *request;
    struct option_values *values;
    struct claas_error *err;
};

static int listed(const char *const *list, const char *name)
{
    for (; list && *list; list++) {
        if (strcmp(*list, name) == 0) {
            return 1;
        }
    }
    return 0;
}

static int has_below(const struct option_table *table, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < table->n; i++) {
        if (strncmp(table->rows[i].name, name, n) == 0 && table->rows[i].name[n] == '.') {
            return 1;
        }
    }
    return 0;
}

/* ---- unknown keys --------------------------------------------------------------------------- */

static void known_add(char *known, size_t cap, const char *name, size_t n, const char *suffix)
{
    size_t used = strlen(known);
    char one[NAME_CAP];
    int len = snprintf(one, sizeof one, "%s%.*s%s", used ? ", " : "", (int)n, name, suffix);
    if (len > 0 && used + (size_t)len < cap) {
        memcpy(known + used, one, (size_t)len + 1);
    }
}

/* The keys of the table on the level of `prefix`, each once. */
static void known_keys(const struct walk *w, const char *prefix, char *known, size_t cap)
{
    const struct option_table *table = w->request->table;
    size_t skip = strlen(prefix);
    size_t before = 0;
    const char *last = "";
    known[0] = '\0';
    for (size_t i = 0; i < table->n; i++) {
        const char *name = table->rows[i].name;
        if (strncmp(name, prefix, skip) != 0) {
            continue;
        }
        name += skip;
        size_t n = strcspn(name, ".");
        if (n != before || strncmp(last, name, n) != 0) {
            int secret = (table->rows[i].flags & CLAAS_SECRET) != 0;
            known_add(known, cap, name, n, secret ? "_file" : "");
        }
        before = n;
        last = name;
    }
    for (const char *const *s = *prefix ? NULL : w->request->skip; s && *s; s++) {
        known_add(known, cap, *s, strlen(*s), "");
    }
    for (const char *const *s = *prefix ? NULL : w->request->open; s && *s; s++) {
        if (!has_below(table, *s)) {
            known_add(known, cap, *s, strlen(*s), "");
        }
    }
}

static int refuse_unknown(const struct walk *w, const struct node_member *member,
                          const char *prefix)
{
    char known[280];
    char where[NAME_CAP];
    const char *title = w->request->title;
    size_t n = strlen(prefix);
    known_keys(w, prefix, known, sizeof known);
    (void)snprintf(where, sizeof where, "%s%s%.*s", title, *title && n ? "." : "",
                   n ? (int)n - 1 : 0, prefix);
    if (known[0] == '\0') {
        return node_refuse(&member->place, member->key, w->err,
                           "unknown key '%.64s'%s%s, expected none", member->key,
                           *where ? " in " : "", where);
    }
    return node_refuse(&member->place, member->key, w->err,
                       "unknown key '%.64s'%s%s, expected one of: %s", member->key,
                       *where ? " in " : "", where, known);
}

/* ---- values --------------------------------------------------------------------------------- */

static cJSON *json_of(const struct config_node *node)
{
    if (node->kind == NODE_SCALAR) {
        char *end = NULL;
        double number = strtod(node->text, &end);
        int plain_number = node->plain && *end == '\0' &&
                           strspn(node->text, "+-.0123456789eE") == strlen(node->text);
        return node_is_nothing(node)                             ? cJSON_CreateNull()
               : node->plain && strcmp(node->text, "true") == 0  ? cJSON_CreateTrue()
               : node->plain && strcmp(node->text, "false") == 0 ? cJSON_CreateFalse()
               : plain_number                                    ? cJSON_CreateNumber(number)
                                                                 : cJSON_CreateString(node->text);
    }
    cJSON *all = node->kind == NODE_MAP ? cJSON_CreateObject() : cJSON_CreateArray();
    for (size_t i = 0; all && i < node->n; i++) {
        cJSON *item = json_of(node->members[i].value);
        int added =
            item && (node->kind == NODE_MAP ? cJSON_AddItemToObject(all, node->members[i].key, item)
                                            : cJSON_AddItemToArray(all, item));
        if (!added) {
            cJSON_Delete(item);
            cJSON_Delete(all);
            return NULL;
        }
    }
    return all;
}

static int put_structure(struct walk *w, size_t i, const struct config_node *node)
{
    cJSON *json = json_of(node);
    if (!json) {
        return err_oom(w->err, "reading the configuration");
    }
    int rc = option_put_json(w->values, i, json, w->err);
    cJSON_Delete(json);
    return rc != 0 ? node_blame(&node->place, w->err) : 0;
}

static int put_list(struct walk *w, size_t i, const struct config_node *node)
{
    const char *name = w->request->table->rows[i].name;
    const char **items = mem_array(node->n, sizeof *items);
    int rc = items ? 0 : err_oom(w->err, "reading the configuration");
    for (size_t k = 0; k < node->n && rc == 0; k++) {
        const struct config_node *item = node->members[k].value;
        if (item->kind != NODE_SCALAR || node_is_nothing(item)) {
            rc = node_refuse(&item->place, name, w->err, "%s: expected a list of texts", name);
        } else {
            items[k] = item->text;
        }
    }
    if (rc == 0) {
        rc = option_put_list(w->values, i, items, node->n, w->err);
        rc = rc != 0 ? node_blame(&node->place, w->err) : 0;
    }
    free((void *)items);
    return rc;
}

static int put_node(struct walk *w, size_t i, const struct config_node *node)
{
    const struct claas_option *row = &w->request->table->rows[i];
    if (row->type == CLAAS_JSON && !(row->flags & CLAAS_SECRET)) {
        return put_structure(w, i, node);
    }
    if (row->type == CLAAS_LIST && node->kind == NODE_LIST) {
        return put_list(w, i, node);
    }
    if (node->kind != NODE_SCALAR) {
        return node_refuse(&node->place, row->name, w->err, "%s: expected %s, found %s", row->name,
                           option_type_name(row->type),
                           node->kind == NODE_MAP ? "keys below it" : "a list");
    }
    int rc = option_put_text(w->values, i, node->text, node->plain ? OPTION_PLAIN : OPTION_QUOTED,
                             node->place.origin->dir, w->err);
    return rc != 0 ? node_blame(&node->place, w->err) : 0;
}

/* The secret whose place "name_file" or "name_env" tells, or -1. */
static int secret_find(const struct option_table *table, const char *name, int *out_env)
{
    static const char *const suffixes[] = { "_file", "_env" };
    for (int k = 0; k < 2; k++) {
        char base[NAME_CAP];
        size_t n = strlen(name);
        size_t m = strlen(suffixes[k]);
        if (n <= m || n >= sizeof base || strcmp(name + n - m, suffixes[k]) != 0) {
            continue;
        }
        memcpy(base, name, n - m);
        base[n - m] = '\0';
        int i = option_find(table, base);
        if (i >= 0 && (table->rows[i].flags & CLAAS_SECRET)) {
            *out_env = k;
            return i;
        }
    }
    return -1;
}

static int put_secret(struct walk *w, size_t i, int env, const struct config_node *node)
{
    const char *name = w->request->table->rows[i].name;
    if (node->kind != NODE_SCALAR || node_is_nothing(node)) {
        return node_refuse(&node->place, name, w->err, "%s: expected %s", name,
                           env ? "the name of a variable" : "the path of a file");
    }
    int rc = 0;
    if (env || node->text[0] == '/') {
        rc = option_put_secret(w->values, i, env ? NULL : node->text, env ? node->text : NULL,
                               w->err);
    } else {
        size_t n = strlen(node->place.origin->dir) + strlen(node->text) + 2;
        char *path = mem_array(n, 1);
        if (!path) {
            return err_oom(w->err, "reading the configuration");
        }
        (void)snprintf(path, n, "%s/%s", node->place.origin->dir, node->text);
        rc = option_put_secret(w->values, i, path, NULL, w->err);
        free(path);
    }
    return rc != 0 ? node_blame(&node->place, w->err) : 0;
}

/* ---- the walk ------------------------------------------------------------------------------- */

static int walk_map(struct walk *w, const struct config_node *map, const char *prefix);

static int walk_below(struct walk *w, const struct node_member *member, const char *name)
{
    char prefix[NAME_CAP];
    if (node_is_nothing(member->value)) {
        return 0;
    }
    if (member->value->kind != NODE_MAP) {
        return node_refuse(&member->value->place, member->key, w->err,
                           "%s: expected keys below it, found %s", name,
                           member->value->kind == NODE_LIST ? "a list" : "a single value");
    }
    (void)snprintf(prefix, sizeof prefix, "%s.", name);
    return walk_map(w, member->value, prefix);
}

/* 1 if prefix ("engine.") is a section whose other keys somebody else checks. */
static int in_open_section(const struct walk *w, const char *prefix)
{
    char name[NAME_CAP];
    size_t n = strlen(prefix);
    if (n == 0 || n >= sizeof name) {
        return 0;
    }
    memcpy(name, prefix, n - 1);
    name[n - 1] = '\0';
    return listed(w->request->open, name);
}

static int walk_member(struct walk *w, const struct node_member *member, const char *prefix)
{
    const struct values_request *request = w->request;
    char name[NAME_CAP];
    int env = 0;
    int top = prefix[0] == '\0';
    /* A key with a dot in it must not pass for the nested one. */
    int fits = snprintf(name, sizeof name, "%s%s", prefix, member->key) < NAME_CAP &&
               !strchr(member->key, '.');
    int i = fits ? option_find(request->table, name) : -1;
    if (i >= 0) {
        return put_node(w, (size_t)i, member->value);
    }
    i = fits ? secret_find(request->table, name, &env) : -1;
    if (i >= 0) {
        return put_secret(w, (size_t)i, env, member->value);
    }
    if (fits && (has_below(request->table, name) || (top && listed(request->open, name)))) {
        return walk_below(w, member, name);
    }
    if (in_open_section(w, prefix) || (top && listed(request->skip, member->key))) {
        return 0;
    }
    return refuse_unknown(w, member, prefix);
}

static int walk_map(struct walk *w, const struct config_node *map, const char *prefix)
{
    int rc = 0;
    for (size_t i = 0; i < map->n && rc == 0; i++) {
        rc = walk_member(w, &map->members[i], prefix);
    }
    return rc;
}

int values_from_node(const struct values_request *request, struct option_values *out,
                     struct claas_error *err)
{
    struct option_values values = { 0 };
    struct walk w = { .request = request, .values = &values, .err = err };
    int rc = option_begin(&values, request->table, err);
    if (rc == 0 && request->map) {
        rc = walk_map(&w, request->map, "");
    }
    if (rc == 0 && option_end(&values, NULL, err) != 0) {
        rc = node_blame(&request->at, err);
    }
    if (rc != 0) {
        option_values_clear(&values);
        return rc;
    }
    *out = values;
    return 0;
}
