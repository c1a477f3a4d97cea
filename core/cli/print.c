/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cli/print.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PRINT_COLUMNS = 12, PRINT_CELL = 160 };

/* Up to here a double holds every whole number. */
#define PRINT_WHOLE 9007199254740992.0

/* A list of texts with commas between them; 0 when it is another list. */
static int print_words(const cJSON *list, char *out, size_t cap)
{
    struct buf words = BUF_INIT;
    const cJSON *it;
    int only_words = cJSON_IsArray(list) && list->child;
    cJSON_ArrayForEach(it, list)
    {
        only_words = only_words && cJSON_IsString(it);
        if (only_words) {
            buf_adds(&words, words.len ? ", " : "");
            buf_adds(&words, it->valuestring);
        }
    }
    if (only_words) {
        (void)snprintf(out, cap, "%s", buf_str(&words));
    }
    buf_clear(&words);
    return only_words;
}

/* One line of text for a scalar or a list of words; objects and other lists as JSON. */
static void print_scalar(const cJSON *value, char *out, size_t cap)
{
    char *json = NULL;
    if (!value || cJSON_IsNull(value)) {
        (void)snprintf(out, cap, "-");
    } else if (cJSON_IsString(value)) {
        (void)snprintf(out, cap, "%s", value->valuestring);
    } else if (cJSON_IsNumber(value)) {
        double v = value->valuedouble;
        (void)snprintf(out, cap, floor(v) == v && fabs(v) <= PRINT_WHOLE ? "%.0f" : "%.6g", v);
    } else if (cJSON_IsBool(value)) {
        (void)snprintf(out, cap, "%s", cJSON_IsTrue(value) ? "yes" : "no");
    } else if (!value->child) {
        (void)snprintf(out, cap, "-");
    } else if (!print_words(value, out, cap)) {
        json = json_print(value);
        (void)snprintf(out, cap, "%s", json ? json : "…");
    }
    free(json);
    size_t n = strlen(out);
    out[n - utf8_incomplete(out, n)] = '\0'; /* where it had to be cut */
    print_tame(out, "");
}

void print_tame(char *text, const char *allowed)
{
    for (char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        unsigned char next = (unsigned char)p[1];
        if ((c < 0x20 || c == 0x7f) && !strchr(allowed, *p)) {
            *p = ' ';
        } else if (c == 0xC2 && next >= 0x80 && next < 0xA0) {
            *p++ = ' '; /* the control characters above ASCII have two bytes */
            *p = ' ';
        }
    }
}

/* The members of an object in a list, on one line. */
static void print_element(const cJSON *element, int indent, FILE *to)
{
    const char *before = "";
    const cJSON *it;
    (void)fprintf(to, "%*s", indent, "");
    cJSON_ArrayForEach(it, element)
    {
        size_t cap = cJSON_IsString(it) ? strlen(it->valuestring) + 1 : 4096;
        char *text = malloc(cap);
        if (text) {
            print_scalar(it, text, cap);
            (void)fprintf(to, "%s%s", before, text);
            before = "  ";
        }
        free(text);
    }
    (void)fputc('\n', to);
}

void print_object(const cJSON *object, int indent, FILE *to)
{
    const cJSON *it;
    cJSON_ArrayForEach(it, object)
    {
        if (cJSON_IsArray(it) && cJSON_IsObject(it->child)) {
            const cJSON *element;
            (void)fprintf(to, "%*s%s:\n", indent, "", it->string ? it->string : "-");
            cJSON_ArrayForEach(element, it)
            {
                print_element(element, indent + 2, to);
            }
            continue;
        }
        if (cJSON_IsObject(it) && it->child) {
            (void)fprintf(to, "%*s%s:\n", indent, "", it->string ? it->string : "-");
            print_object(it, indent + 2, to);
            continue;
        }
        size_t cap = cJSON_IsString(it) ? strlen(it->valuestring) + 1 : 4096;
        char *text = malloc(cap);
        if (text) {
            print_scalar(it, text, cap);
            (void)fprintf(to, "%*s%s: %s\n", indent, "", it->string ? it->string : "-", text);
        }
        free(text);
    }
}

static const cJSON *print_member(const cJSON *element, const char *path)
{
    const char *dot = strchr(path, '.');
    if (!dot) {
        return json_get(element, path);
    }
    char first[64];
    (void)snprintf(first, sizeof first, "%.*s", (int)(dot - path), path);
    return print_member(json_get(element, first), dot + 1);
}

static void print_widths(const cJSON *list, const char *const *columns, size_t *widths)
{
    char cell[PRINT_CELL];
    for (size_t i = 0; columns[i]; i++) {
        widths[i] = strlen(columns[i]);
        const cJSON *it;
        cJSON_ArrayForEach(it, list)
        {
            print_scalar(print_member(it, columns[i]), cell, sizeof cell);
            widths[i] = strlen(cell) > widths[i] ? strlen(cell) : widths[i];
        }
    }
}

void print_table(const cJSON *list, const char *const *columns, FILE *to)
{
    char cell[PRINT_CELL];
    size_t widths[PRINT_COLUMNS] = { 0 };
    const cJSON *it;
    if (cJSON_IsObject(cJSON_GetArrayItem(list, 0))) {
        print_widths(list, columns, widths);
        for (size_t i = 0; columns[i]; i++) {
            (void)fprintf(to, "%-*s%s", columns[i + 1] ? (int)widths[i] : 0, columns[i],
                          columns[i + 1] ? "  " : "\n");
        }
    }
    cJSON_ArrayForEach(it, list)
    {
        if (!cJSON_IsObject(it)) {
            print_scalar(it, cell, sizeof cell);
            (void)fprintf(to, "%s\n", cell);
            continue;
        }
        for (size_t i = 0; columns[i]; i++) {
            print_scalar(print_member(it, columns[i]), cell, sizeof cell);
            (void)fprintf(to, "%-*s%s", columns[i + 1] ? (int)widths[i] : 0, cell,
                          columns[i + 1] ? "  " : "\n");
        }
    }
}
