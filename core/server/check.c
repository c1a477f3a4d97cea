/* SPDX-License-Identifier: MIT */
/* Checks of request members. The words are those of the validation that existing clients were written against. */
#include "config.h"

#include "server/check.h"

#include "base/json.h"
#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_INPUT = 256 }; /* an offending text is repeated in the answer only if it is no longer */

size_t check_enter(struct check *c, const char *name, long index)
{
    size_t was = strlen(c->loc);
    if (name) {
        (void)snprintf(c->loc + was, sizeof c->loc - was, ".%s", name);
    } else {
        (void)snprintf(c->loc + was, sizeof c->loc - was, ".%ld", index);
    }
    return was;
}

void check_leave(struct check *c, size_t was)
{
    c->loc[was] = '\0';
}

/* ["body", "requests", 0, "feedback"] */
static cJSON *check_loc(const char *loc, const char *name)
{
    char copy[256];
    (void)snprintf(copy, sizeof copy, "%s%s%s", loc, name && name[0] ? "." : "", name ? name : "");
    cJSON *list = cJSON_CreateArray();
    char *rest = NULL;
    for (char *part = strtok_r(copy, ".", &rest); part && list; part = strtok_r(NULL, ".", &rest)) {
        size_t digits = strspn(part, "0123456789");
        cJSON *item = part[digits] ? cJSON_CreateString(part) : cJSON_CreateNumber(strtod(part, NULL));
        if (!cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            cJSON_Delete(list);
            list = NULL;
        }
    }
    return list;
}

static cJSON *check_input(const cJSON *input)
{
    int small = cJSON_IsNumber(input) || cJSON_IsBool(input) ||
                (cJSON_IsString(input) && strlen(input->valuestring) <= CHECK_INPUT);
    return small ? cJSON_Duplicate(input, 0) : cJSON_CreateNull();
}

void check_fail(struct check *c, const char *name, const char *type, const char *message, const cJSON *input)
{
    if (!c->param[0]) {
        const char *where = strchr(c->loc, '.');
        (void)snprintf(c->param, sizeof c->param, "%.60s", name && name[0] ? name : c->loc);
        (void)snprintf(c->message, sizeof c->message, "%s%s%s: %s", where ? where + 1 : "",
                       where && name && name[0] ? "." : "", name ? name : "", message);
    }
    cJSON *row = cJSON_CreateObject();
    cJSON *loc = check_loc(c->loc, name);
    cJSON *copy = check_input(input);
    if (!c->list) {
        c->list = cJSON_CreateArray();
    }
    if (!cJSON_AddStringToObject(row, "type", type) || !cJSON_AddItemToObject(row, "loc", loc)) {
        cJSON_Delete(loc);
        c->failed = 1;
    }
    if (!cJSON_AddStringToObject(row, "msg", message) || !cJSON_AddItemToObject(row, "input", copy)) {
        cJSON_Delete(copy);
        c->failed = 1;
    }
    if (!cJSON_AddItemToArray(c->list, row)) {
        cJSON_Delete(row);
        c->failed = 1;
    }
}

/* The member, or null when absent; a violation when it is required. */
static const cJSON *check_member(struct check *c, const cJSON *o, const char *name, int required)
{
    const cJSON *v = json_get(o, name);
    if (!v && required) {
        check_fail(c, name, "missing", "Field required", o);
    }
    return v;
}

static size_t check_chars(const char *s)
{
    size_t n = 0;
    for (; *s; s++) {
        n += ((unsigned char)*s & 0xC0) != 0x80;
    }
    return n;
}

int check_text(struct check *c, const cJSON *o, const char *name, int required, size_t min_chars, const char **out)
{
    const cJSON *v = check_member(c, o, name, required);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsString(v)) {
        check_fail(c, name, "string_type", "Input should be a valid string", v);
        return 0;
    }
    if (check_chars(v->valuestring) < min_chars) {
        char text[64];
        (void)snprintf(text, sizeof text, "String should have at least %zu character%s", min_chars,
                       min_chars == 1 ? "" : "s");
        check_fail(c, name, "string_too_short", text, v);
        return 0;
    }
    *out = v->valuestring;
    return 1;
}

/* 1 if min <= x <= max, else a violation. */
static int check_range(struct check *c, const char *name, double x, double min, double max, const cJSON *v)
{
    char text[96];
    if (x < min) {
        (void)snprintf(text, sizeof text, "Input should be greater than or equal to %.15g", min);
        check_fail(c, name, "greater_than_equal", text, v);
    } else if (x > max) {
        (void)snprintf(text, sizeof text, "Input should be less than or equal to %.15g", max);
        check_fail(c, name, "less_than_equal", text, v);
    }
    return x >= min && x <= max;
}

int check_int(struct check *c, const cJSON *o, const char *name, int64_t min, int64_t max, int64_t *out)
{
    const cJSON *v = check_member(c, o, name, 0);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble)) {
        check_fail(c, name, "int_type", "Input should be a valid integer", v);
        return 0;
    }
    if (v->valuedouble != floor(v->valuedouble)) {
        check_fail(c, name, "int_from_float",
                   "Input should be a valid integer, got a number with a fractional part", v);
        return 0;
    }
    if (!check_range(c, name, v->valuedouble, (double)min, (double)max, v)) {
        return 0;
    }
    /* (double)INT64_MAX is one more than INT64_MAX */
    *out = v->valuedouble >= 9223372036854775807.0 ? max : (int64_t)v->valuedouble;
    return 1;
}

int check_real(struct check *c, const cJSON *o, const char *name, double min, double max, double *out)
{
    const cJSON *v = check_member(c, o, name, 0);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble)) {
        check_fail(c, name, "float_type", "Input should be a valid number", v);
        return 0;
    }
    if (!check_range(c, name, v->valuedouble, min, max, v)) {
        return 0;
    }
    *out = v->valuedouble;
    return 1;
}

int check_bool(struct check *c, const cJSON *o, const char *name, int *out)
{
    const cJSON *v = check_member(c, o, name, 0);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsBool(v)) {
        check_fail(c, name, "bool_type", "Input should be a valid boolean", v);
        return 0;
    }
    *out = cJSON_IsTrue(v);
    return 1;
}

int check_list(struct check *c, const cJSON *o, const char *name, int required, size_t min_items, const cJSON **out)
{
    const cJSON *v = check_member(c, o, name, required);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsArray(v)) {
        check_fail(c, name, "list_type", "Input should be a valid list", v);
        return 0;
    }
    if (!v->child && min_items > 0) {
        check_fail(c, name, "too_short", "List should have at least 1 item after validation, not 0", v);
        return 0;
    }
    *out = v;
    return 1;
}

int check_object(struct check *c, const cJSON *o, const char *name, int required, const cJSON **out)
{
    const cJSON *v = check_member(c, o, name, required);
    if (!v) {
        return 0;
    }
    if (!cJSON_IsObject(v)) {
        check_fail(c, name, "dict_type", "Input should be a valid dictionary", v);
        return 0;
    }
    *out = v;
    return 1;
}

int check_query_text(struct check *c, const char *text, const char *name, int required, const char **out)
{
    if (!text || (required && !text[0])) {
        if (required) {
            check_fail(c, name, "missing", "Field required", NULL);
        }
        return 0;
    }
    if (!utf8_valid(text, strlen(text))) {
        check_fail(c, name, "string_unicode", "Input should be a valid string, unable to parse as UTF-8", NULL);
        return 0;
    }
    *out = text;
    return 1;
}

int check_query_int(struct check *c, const char *text, const char *name, int64_t min, int64_t max, int64_t *out)
{
    char *end = NULL;
    if (!text) {
        return 0;
    }
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!text[0] || *end || errno || text[0] == ' ') {
        check_fail(c, name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer",
                   NULL);
        return 0;
    }
    if (!check_range(c, name, (double)value, (double)min, (double)max, NULL)) {
        return 0;
    }
    *out = value;
    return 1;
}
