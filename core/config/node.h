/* SPDX-License-Identifier: MIT */
/* YAML as a tree with positions. Stricter than YAML: one document of UTF-8, at most 1 MiB, 16
 * levels and 4096 members of one collection; no anchors, aliases, tags or duplicate keys; keys are
 * plain texts. */
#ifndef CONFIG_NODE_H
#define CONFIG_NODE_H

#include <claas/error.h>

#include <stddef.h>

enum { NODE_BYTES_MAX = 1 << 20, NODE_DEPTH_MAX = 16, NODE_MEMBERS_MAX = 4096 };

enum node_kind { NODE_SCALAR, NODE_MAP, NODE_LIST };

/* Where text came from; shared by its nodes, so that counting is not needed they all live as long
 * as the config. */
struct config_origin {
    struct config_origin *next;
    char *file; /* for messages */
    char *dir;  /* relative paths are joined to it */
};

struct node_place {
    const struct config_origin *origin;
    size_t line;
    size_t column;
};

struct node_member {
    char *key;               /* null in a list */
    struct node_place place; /* of the key; in a list, of the value */
    struct config_node *value;
};

struct config_node {
    enum node_kind kind;
    int plain; /* a scalar without quotes */
    struct node_place place;
    char *text; /* of a scalar */
    struct node_member *members;
    size_t n;
    size_t cap;
};

/* Parses n bytes. An empty document gives an empty map. INVALID with the position in front. */
int node_parse(const char *text, size_t n, const struct config_origin *origin,
               struct config_node **out, struct claas_error *err);
void node_free(struct config_node *node);

/* The value of a key of a map, or null. */
struct config_node *node_get(const struct config_node *map, const char *key);
const struct node_member *node_member_get(const struct config_node *map, const char *key);

/* 1 for a scalar that was left empty (or ~, or null). */
int node_is_nothing(const struct config_node *node);

/* Sets key in map (not there yet, or there: replaced); takes value also on failure. */
int node_set(struct config_node *map, const char *key, struct config_node *value,
             struct claas_error *err);
struct config_node *node_new(enum node_kind kind, struct node_place place);

/* err_set with "FILE:LINE:COLUMN: " in front; INVALID. */
int node_refuse(const struct node_place *place, const char *what, struct claas_error *err,
                const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Puts "FILE:LINE:COLUMN: " before what *err says; returns its code. */
int node_blame(const struct node_place *place, struct claas_error *err);

#endif
