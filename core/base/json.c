/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/json.h"

#include "base/err.h"
#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Depth outside of strings: checked before cJSON recurses. */
static int json_depth_ok(const char *s, size_t n)
{
    int depth = 0;
    int in_string = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = 0;
            }
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '{' || c == '[') {
            if (++depth > JSON_DEPTH) {
                return 0;
            }
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return 1;
}

/* A text that spells U+0000 (outside of texts no backslash is valid). */
static int json_has_nul(const char *s, size_t n)
{
    static const char nul[] = "u0000";
    for (size_t i = 0; i + sizeof nul - 1 < n; i++) {
        if (s[i] == '\\') {
            i++;
            if (memcmp(s + i, nul, sizeof nul - 1) == 0) {
                return 1;
            }
        }
    }
    return 0;
}

static int json_compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The first key that an object holds twice, or null; *oom set when the check could not be made. */
static const char *json_object_duplicate(const cJSON *object, int *oom)
{
    size_t n = 0;
    for (const cJSON *it = object->child; it; it = it->next) {
        n++;
    }
    if (n < 2) {
        return NULL;
    }
    const char **names = malloc(n * sizeof *names);
    if (!names) {
        *oom = 1;
        return NULL;
    }
    size_t i = 0;
    for (const cJSON *it = object->child; it; it = it->next) {
        names[i++] = it->string;
    }
    qsort(names, n, sizeof *names, json_compare_names);
    const char *found = NULL;
    for (i = 1; i < n && !found; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            found = names[i];
        }
    }
    free(names);
    return found;
}

static const char *json_duplicate(const cJSON *value, int *oom)
{
    const char *found = cJSON_IsObject(value) ? json_object_duplicate(value, oom) : NULL;
    for (const cJSON *it = value->child; it && !found && !*oom; it = it->next) {
        found = json_duplicate(it, oom);
    }
    return found;
}

static int json_only_blanks(const char *s, const char *end)
{
    while (s < end && strchr(" \t\r\n", *s)) {
        s++;
    }
    return s == end;
}

/* Line of a byte, counted from 1. */
static size_t json_line_of(const char *text, const char *at)
{
    size_t line = 1;
    for (; text < at; text++) {
        line += *text == '\n';
    }
    return line;
}

int json_parse(const char *text, size_t n, const char *name, cJSON **out, struct claas_error *err)
{
    if (memchr(text, 0, n) || !utf8_valid(text, n)) {
        return err_set(err, CLAAS_ERR_INVALID, name, "%s is not valid UTF-8", name);
    }
    if (!json_depth_ok(text, n)) {
        return err_set(err, CLAAS_ERR_INVALID, name, "%s is nested deeper than %d levels", name, JSON_DEPTH);
    }
    if (json_has_nul(text, n)) { /* cJSON would cut the text off there, unseen */
        return err_set(err, CLAAS_ERR_INVALID, name, "%s has a text with the character U+0000", name);
    }
    const char *end = NULL;
    errno = 0; /* cJSON does not say why; malloc does (POSIX), and nothing behind it touches that */
    cJSON *value = cJSON_ParseWithLengthOpts(text, n, &end, 0);
    if (!value && errno == ENOMEM) {
        return err_oom(err, "reading JSON");
    }
    if (!value || !end || !json_only_blanks(end, text + n)) {
        cJSON_Delete(value);
        return err_set(err, CLAAS_ERR_INVALID, name, "%s is not valid JSON at line %zu", name,
                       end && end <= text + n ? json_line_of(text, end) : 1);
    }
    int oom = 0;
    const char *twice = json_duplicate(value, &oom);
    if (twice || oom) {
        int rc = oom ? err_oom(err, "reading JSON")
                     : err_set(err, CLAAS_ERR_INVALID, name, "%s has the key '%.60s' twice", name, twice);
        cJSON_Delete(value);
        return rc;
    }
    *out = value;
    return 0;
}

char *json_print(const cJSON *value)
{
    return cJSON_PrintUnformatted(value);
}

int json_put(cJSON *object, const char *name, cJSON *item)
{
    if (!object || !item || !cJSON_AddItemToObject(object, name, item)) {
        cJSON_Delete(item);
        return -1;
    }
    return 0;
}

int json_push(cJSON *array, cJSON *item)
{
    if (!array || !item || !cJSON_AddItemToArray(array, item)) {
        cJSON_Delete(item);
        return -1;
    }
    return 0;
}

const cJSON *json_get(const cJSON *object, const char *name)
{
    const cJSON *it = cJSON_GetObjectItemCaseSensitive(object, name);
    return it && !cJSON_IsNull(it) ? it : NULL;
}

int json_get_text(const cJSON *object, const char *name, const char **out, struct claas_error *err)
{
    const cJSON *it = json_get(object, name);
    if (!it) {
        return 0;
    }
    if (!cJSON_IsString(it)) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be a string", name);
    }
    *out = it->valuestring;
    return 0;
}

int json_get_int(const cJSON *object, const char *name, int64_t min, int64_t max, int64_t *out,
                 struct claas_error *err)
{
    const cJSON *it = json_get(object, name);
    if (!it) {
        return 0;
    }
    double v = it->valuedouble;
    if (!cJSON_IsNumber(it) || floor(v) != v || fabs(v) > 9007199254740992.0) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be a whole number", name);
    }
    if (v < (double)min || v > (double)max) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be from %lld to %lld, not %.0f", name,
                       (long long)min, (long long)max, v);
    }
    *out = (int64_t)v;
    return 0;
}

int json_get_real(const cJSON *object, const char *name, double min, double max, double *out,
                  struct claas_error *err)
{
    const cJSON *it = json_get(object, name);
    if (!it) {
        return 0;
    }
    if (!cJSON_IsNumber(it) || !isfinite(it->valuedouble)) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be a number", name);
    }
    if (it->valuedouble < min || it->valuedouble > max) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be from %g to %g, not %g", name, min, max,
                       it->valuedouble);
    }
    *out = it->valuedouble;
    return 0;
}

int json_get_bool(const cJSON *object, const char *name, int *out, struct claas_error *err)
{
    const cJSON *it = json_get(object, name);
    if (!it) {
        return 0;
    }
    if (!cJSON_IsBool(it)) {
        return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be true or false", name);
    }
    *out = cJSON_IsTrue(it);
    return 0;
}
