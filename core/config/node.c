/* SPDX-License-Identifier: MIT */
#include <config.h> /* not in quotes: config.h of this folder is another */

#include "config/node.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* ---- messages ------------------------------------------------------------------------------- */

int node_blame(const struct node_place *place, struct claas_error *err)
{
    /* A long path must not push the reason out of the message. */
    const char *file = place->origin->file;
    size_t n = strlen(file);
    const char *dots = n > 160 ? "…" : "";
    file += n > 160 ? n - 160 : 0;
    while (((unsigned char)*file & 0xC0) == 0x80) {
        file++;
    }
    return err_prefix(err, "%s%s:%zu:%zu", dots, file, place->line, place->column);
}

int node_refuse(const struct node_place *place, const char *what, struct claas_error *err,
                const char *fmt, ...)
{
    char text[sizeof err->message];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)err_set(err, CLAAS_ERR_INVALID, what, "%s", text);
    (void)node_blame(place, err);
    return CLAAS_ERR_INVALID;
}

/* ---- trees ---------------------------------------------------------------------------------- */

struct config_node *node_new(enum node_kind kind, struct node_place place)
{
    struct config_node *node = calloc(1, sizeof *node);
    if (node) {
        node->kind = kind;
        node->place = place;
    }
    return node;
}

/* Recursion is bounded by NODE_DEPTH_MAX. */
void node_free(struct config_node *node)
{
    if (!node) {
        return;
    }
    for (size_t i = 0; i < node->n; i++) {
        free(node->members[i].key);
        node_free(node->members[i].value);
    }
    free(node->members);
    free(node->text);
    free(node);
}

const struct node_member *node_member_get(const struct config_node *map, const char *key)
{
    for (size_t i = 0; map && map->kind == NODE_MAP && i < map->n; i++) {
        if (strcmp(map->members[i].key, key) == 0) {
            return &map->members[i];
        }
    }
    return NULL;
}

struct config_node *node_get(const struct config_node *map, const char *key)
{
    const struct node_member *member = node_member_get(map, key);
    return member ? member->value : NULL;
}

int node_is_nothing(const struct config_node *node)
{
    return node->kind == NODE_SCALAR && node->plain &&
           (node->text[0] == '\0' || strcmp(node->text, "~") == 0 ||
            strcmp(node->text, "null") == 0);
}

/* Appends; takes key and value also on failure. */
static int node_add(struct config_node *node, char *key, struct node_place place,
                    struct config_node *value, struct claas_error *err)
{
    if (mem_grow((void **)&node->members, &node->cap, node->n + 1, sizeof *node->members) != 0) {
        free(key);
        node_free(value);
        return err_oom(err, "reading the configuration");
    }
    node->members[node->n++] = (struct node_member){ key, place, value };
    return 0;
}

int node_set(struct config_node *map, const char *key, struct config_node *value,
             struct claas_error *err)
{
    for (size_t i = 0; i < map->n; i++) {
        if (strcmp(map->members[i].key, key) == 0) {
            node_free(map->members[i].value);
            map->members[i].value = value;
            map->members[i].place = value->place;
            return 0;
        }
    }
    char *copy = mem_dup(key, strlen(key));
    if (!copy) {
        node_free(value);
        return err_oom(err, "reading the configuration");
    }
    return node_add(map, copy, value->place, value, err);
}

/* ---- parsing -------------------------------------------------------------------------------- */

struct reader {
    yaml_parser_t parser;
    const struct config_origin *origin;
    struct claas_error *err;
    int depth;
};

static struct node_place place_of(const struct reader *r, const yaml_mark_t *mark)
{
    return (struct node_place){ r->origin, mark->line + 1, mark->column + 1 };
}

static int next_event(struct reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event)) {
        return 0;
    }
    if (r->parser.error == YAML_MEMORY_ERROR) {
        return err_oom(r->err, "reading the configuration");
    }
    struct node_place place = place_of(r, &r->parser.problem_mark);
    const char *context = r->parser.context;
    return node_refuse(&place, "", r->err, "not valid YAML: %s%s%s",
                       r->parser.problem ? r->parser.problem : "unreadable", context ? ", " : "",
                       context ? context : "");
}

/* What YAML can and we do not want: one thing must have one spelling in one place. */
static int refuse_extras(const struct reader *r, const yaml_event_t *event)
{
    struct node_place place = place_of(r, &event->start_mark);
    const yaml_char_t *anchor = NULL;
    const yaml_char_t *tag = NULL;
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        return node_refuse(&place, "", r->err,
                           "aliases (*name) are not allowed: write the value itself");
    case YAML_SCALAR_EVENT:
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor) {
        return node_refuse(&place, "", r->err, "anchors (&name) are not allowed");
    }
    return tag ? node_refuse(&place, "", r->err, "tags (!name) are not allowed") : 0;
}

static int read_node(struct reader *r, const yaml_event_t *event, struct config_node **out);

static int read_key(struct reader *r, const struct config_node *map, const yaml_event_t *event,
                    char **out)
{
    struct node_place place = place_of(r, &event->start_mark);
    int rc = refuse_extras(r, event);
    if (rc != 0) {
        return rc;
    }
    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.length == 0) {
        return node_refuse(&place, "", r->err, "expected a key");
    }
    const char *key = (const char *)event->data.scalar.value;
    size_t n = event->data.scalar.length;
    if (n > 128 || strlen(key) != n) {
        return node_refuse(&place, "", r->err, "a key is longer than 128 bytes, or not one text");
    }
    const struct node_member *first = node_member_get(map, key);
    if (first) {
        return node_refuse(&place, key, r->err,
                           "key '%s' stands there twice, first at line %zu column %zu", key,
                           first->place.line, first->place.column);
    }
    *out = mem_dup(key, n);
    return *out ? 0 : err_oom(r->err, "reading the configuration");
}

/* One member of a collection whose first event (a key, or a value in a list) is at hand. */
static int read_member(struct reader *r, struct config_node *node, const yaml_event_t *first)
{
    struct node_place place = place_of(r, &first->start_mark);
    struct config_node *value = NULL;
    char *key = NULL;
    int rc = 0;
    if (node->n == NODE_MEMBERS_MAX) {
        return node_refuse(&place, "", r->err, "more than %d members in one place",
                           NODE_MEMBERS_MAX);
    }
    if (node->kind == NODE_LIST) {
        rc = read_node(r, first, &value);
    } else {
        yaml_event_t event;
        rc = read_key(r, node, first, &key);
        if (rc == 0) {
            rc = next_event(r, &event);
        }
        if (rc == 0) {
            rc = read_node(r, &event, &value);
            yaml_event_delete(&event);
        }
    }
    if (rc != 0) {
        free(key);
        return rc;
    }
    return node_add(node, key, place, value, r->err);
}

static int read_members(struct reader *r, struct config_node *node)
{
    yaml_event_type_t end =
        node->kind == NODE_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    if (r->depth == NODE_DEPTH_MAX) {
        return node_refuse(&node->place, "", r->err, "nested deeper than %d levels",
                           NODE_DEPTH_MAX);
    }
    r->depth++;
    int rc = 0;
    int more = 1;
    while (rc == 0 && more) {
        yaml_event_t event;
        rc = next_event(r, &event);
        if (rc == 0) {
            more = event.type != end;
            rc = more ? read_member(r, node, &event) : 0;
            yaml_event_delete(&event);
        }
    }
    r->depth--;
    return rc;
}

static int read_scalar(struct reader *r, const yaml_event_t *event, struct config_node *node)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t n = event->data.scalar.length;
    if (strlen(text) != n) {
        return node_refuse(&node->place, "", r->err, "a text contains a zero character");
    }
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->text = mem_dup(text, n);
    return node->text ? 0 : err_oom(r->err, "reading the configuration");
}

static int read_node(struct reader *r, const yaml_event_t *event, struct config_node **out)
{
    int rc = refuse_extras(r, event);
    if (rc != 0) {
        return rc;
    }
    enum node_kind kind = event->type == YAML_SCALAR_EVENT          ? NODE_SCALAR
                          : event->type == YAML_MAPPING_START_EVENT ? NODE_MAP
                                                                    : NODE_LIST;
    struct config_node *node = node_new(kind, place_of(r, &event->start_mark));
    if (!node) {
        return err_oom(r->err, "reading the configuration");
    }
    rc = kind == NODE_SCALAR ? read_scalar(r, event, node) : read_members(r, node);
    if (rc != 0) {
        node_free(node);
        return rc;
    }
    *out = node;
    return 0;
}

/* The events of a stream: at most one document with one node in it. */
static int read_stream(struct reader *r, struct config_node **out)
{
    struct config_node *root = NULL;
    int documents = 0;
    int more = 1;
    int rc = 0;
    while (rc == 0 && more) {
        yaml_event_t event;
        rc = next_event(r, &event);
        if (rc != 0) {
            break;
        }
        struct node_place place = place_of(r, &event.start_mark);
        switch (event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_STREAM_END_EVENT:
            more = 0;
            break;
        case YAML_DOCUMENT_START_EVENT:
            rc = ++documents > 1 ? node_refuse(&place, "", r->err,
                                               "expected one document, a second begins here")
                                 : 0;
            break;
        default:
            rc = read_node(r, &event, &root);
            break;
        }
        yaml_event_delete(&event);
    }
    if (rc == 0 && !root) {
        struct node_place place = { r->origin, 1, 1 };
        root = node_new(NODE_MAP, place);
        rc = root ? 0 : err_oom(r->err, "reading the configuration");
    }
    if (rc != 0) {
        node_free(root);
        return rc;
    }
    *out = root;
    return 0;
}

/* libyaml tells no column for bytes that are no UTF-8. */
static int check_bytes(const char *text, size_t n, const struct config_origin *origin,
                       struct claas_error *err)
{
    struct node_place place = { origin, 1, 1 };
    if (n > NODE_BYTES_MAX) {
        return node_refuse(&place, "", err, "longer than %d bytes", NODE_BYTES_MAX);
    }
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = utf8_decode(text + i, n - i, &c);
        if (len == 0 || (c < 0x20 && c != '\n' && c != '\t' && c != '\r') || c == 0x7f) {
            return node_refuse(&place, "", err,
                               len == 0 ? "not valid UTF-8" : "a control character");
        }
        place.column = c == '\n' ? 1 : place.column + 1;
        place.line += c == '\n';
        i += len;
    }
    return 0;
}

int node_parse(const char *text, size_t n, const struct config_origin *origin,
               struct config_node **out, struct claas_error *err)
{
    struct reader r = { .origin = origin, .err = err };
    int rc = check_bytes(text, n, origin, err);
    if (rc != 0) {
        return rc;
    }
    if (!yaml_parser_initialize(&r.parser)) {
        return err_oom(err, "reading the configuration");
    }
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    rc = read_stream(&r, out);
    yaml_parser_delete(&r.parser);
    return rc;
}
