/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "host/option_parse.h"

#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    const char *name;
    double factor;
};

static const struct unit byte_units[] = {
    { "TiB", 1099511627776.0 },
    { "GiB", 1073741824.0 },
    { "MiB", 1048576.0 },
    { "KiB", 1024.0 },
    { "TB", 1e12 },
    { "GB", 1e9 },
    { "MB", 1e6 },
    { "kB", 1e3 },
    { "B", 1.0 },
    { NULL, 0 },
};
static const struct unit time_units[] = {
    { "d", 86400000.0 }, { "h", 3600000.0 }, { "min", 60000.0 },
    { "s", 1000.0 },     { "ms", 1.0 },      { NULL, 0 },
};

#define EXACT 9007199254740992.0 /* 2^53: beyond it a double skips whole numbers */

static const struct unit *option_units(uint32_t type)
{
    return type == CLAAS_BYTES ? byte_units : type == CLAAS_MS ? time_units : NULL;
}

const char *option_type_name(uint32_t type)
{
    switch (type) {
    case CLAAS_BOOL:
        return "true or false";
    case CLAAS_INT:
        return "a whole number";
    case CLAAS_REAL:
        return "a number";
    case CLAAS_TEXT:
        return "text";
    case CLAAS_LIST:
        return "a list of texts";
    case CLAAS_PATH:
        return "a path";
    case CLAAS_BYTES:
        return "a size such as 64MiB";
    case CLAAS_MS:
        return "a duration such as 30s";
    case CLAAS_JSON:
        return "a structure";
    default:
        return "nothing known";
    }
}

int option_bounded(const struct claas_option *row)
{
    /* Both zero is what a table says that leaves them out. */
    return row->min <= row->max && (row->min < 0 || row->max > 0 || row->min > 0);
}

/* 1: that bound itself is outside. */
static int is_open(const struct claas_option *row, uint32_t flag)
{
    return row->type == CLAAS_REAL && (row->flags & flag) != 0;
}

static int in_bounds(const struct claas_option *row, double number)
{
    int low = is_open(row, CLAAS_ABOVE) ? number > row->min : number >= row->min;
    int high = is_open(row, CLAAS_BELOW) ? number < row->max : number <= row->max;
    return low && high;
}

/* Spells a number with the unit that makes it smallest without a fraction. */
static void option_spell_units(const struct unit *units, double number, char *out, size_t cap)
{
    const struct unit none = { "", 1.0 };
    const struct unit *best = &none;
    for (; number != 0 && units->name; units++) {
        if (fmod(number, units->factor) == 0 && units->factor > best->factor) {
            best = units;
        }
    }
    (void)snprintf(out, cap, "%.0f%s", number / best->factor, best->name);
}

static void option_spell_number(const struct claas_option *row, double number, char *out,
                                size_t cap)
{
    const struct unit *units = option_units(row->type);
    if (units) {
        option_spell_units(units, number, out, cap);
    } else if (row->type == CLAAS_REAL) {
        for (int digits = 6; digits <= 17; digits++) {
            (void)snprintf(out, cap, "%.*g", digits, number);
            if (strtod(out, NULL) == number) {
                break;
            }
        }
    } else {
        (void)snprintf(out, cap, "%.0f", number);
    }
}

void option_spell(const struct claas_option *row, const struct claas_value *value,
                  char out[OPTION_SPELL_CAP])
{
    if (row->type == CLAAS_BOOL) {
        (void)snprintf(out, OPTION_SPELL_CAP, "%s", value->i ? "true" : "false");
    } else if (row->type == CLAAS_INT) {
        (void)snprintf(out, OPTION_SPELL_CAP, "%lld", (long long)value->i);
    } else {
        option_spell_number(row, value->d, out, OPTION_SPELL_CAP);
    }
}

/* Appends what fits. */
static void expect_add(char *out, const char *s, size_t n)
{
    size_t used = strlen(out);
    size_t room = OPTION_EXPECT_CAP - 1 - used;
    n = n < room ? n : room;
    memcpy(out + used, s, n);
    out[used + n] = '\0';
}

static void expect_choices(const char *choices, char *out)
{
    const char *separator = "'";
    for (const char *c = choices; *c; c += *c == '|') {
        size_t n = strcspn(c, "|");
        expect_add(out, separator, strlen(separator));
        expect_add(out, c, n);
        separator = "', '";
        c += n;
    }
    expect_add(out, "'", 1);
}

void option_expect(const struct claas_option *row, char out[OPTION_EXPECT_CAP])
{
    out[0] = '\0';
    if (row->choices) {
        const char *kind = row->type == CLAAS_LIST ? "a list out of " : "one of ";
        expect_add(out, kind, strlen(kind));
        expect_choices(row->choices, out);
        return;
    }
    const char *kind = option_type_name(row->type);
    expect_add(out, kind, strlen(kind));
    if (!option_bounded(row) || row->type == CLAAS_BOOL) {
        return;
    }
    char low[OPTION_SPELL_CAP];
    char high[OPTION_SPELL_CAP];
    char range[2 * OPTION_SPELL_CAP + 32];
    struct claas_option plain = *row;
    if (row->type == CLAAS_LIST) {
        plain.type = CLAAS_INT;
    } else if (row->type == CLAAS_TEXT || row->type == CLAAS_PATH || row->type == CLAAS_JSON) {
        return;
    }
    option_spell_number(&plain, row->min, low, sizeof low);
    option_spell_number(&plain, row->max, high, sizeof high);
    if (row->type == CLAAS_LIST) {
        (void)snprintf(range, sizeof range, " with %s to %s members", low, high);
    } else if (isinf(row->max)) {
        (void)snprintf(range, sizeof range, " %s %s", is_open(row, CLAAS_ABOVE) ? "above" : "of at least", low);
    } else {
        (void)snprintf(range, sizeof range, " %s %s %s %s", is_open(row, CLAAS_ABOVE) ? "above" : "from", low,
                       is_open(row, CLAAS_BELOW) ? "to below" : "to", high);
    }
    expect_add(out, range, strlen(range));
}

int option_refuse(const struct claas_option *row, const char *found, struct claas_error *err)
{
    char expected[OPTION_EXPECT_CAP];
    option_expect(row, expected);
    return err_set(err, CLAAS_ERR_INVALID, row->name, "%s: expected %s, found %.100s", row->name,
                   expected, found);
}

int option_chosen(const struct claas_option *row, const char *text, size_t n)
{
    if (!row->choices) {
        return 1;
    }
    for (const char *c = row->choices; *c; c += *c == '|') {
        size_t m = strcspn(c, "|");
        if (m == n && memcmp(c, text, n) == 0) {
            return 1;
        }
        c += m;
    }
    return 0;
}

int option_judge(const struct claas_option *row, double number, int64_t *out_i, double *out_d)
{
    if (!isfinite(number)) {
        return -1;
    }
    if (row->type != CLAAS_REAL && (number != floor(number) || fabs(number) > EXACT)) {
        return -1;
    }
    if ((row->type == CLAAS_BYTES || row->type == CLAAS_MS) && number < 0) {
        return -1;
    }
    if (option_bounded(row) && !in_bounds(row, number)) {
        return -1;
    }
    *out_i = row->type == CLAAS_REAL ? 0 : (int64_t)number;
    *out_d = number;
    return 0;
}

/* Decimal notation only: strtod would take "nan", "0x1p3" and blanks. Null when s does not begin
 * with a number. */
static const char *number_end(const char *s)
{
    const char *p = s + (*s == '-' || *s == '+');
    size_t whole = strspn(p, "0123456789");
    p += whole;
    size_t part = 0;
    if (*p == '.') {
        part = strspn(p + 1, "0123456789");
        p += 1 + part;
    }
    if (whole + part == 0) {
        return NULL;
    }
    if (*p == 'e' || *p == 'E') {
        const char *e = p + 1 + (p[1] == '-' || p[1] == '+');
        size_t digits = strspn(e, "0123456789");
        if (digits > 0) {
            p = e + digits;
        }
    }
    return p;
}

static int option_whole(const struct claas_option *row, const char *text, int64_t *out_i,
                        double *out_d)
{
    char *end = NULL;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || isspace((unsigned char)*text) ||
        (option_bounded(row) && ((double)v < row->min || (double)v > row->max))) {
        return -1;
    }
    *out_i = v;
    *out_d = (double)v;
    return 0;
}

int option_number(const struct claas_option *row, const char *text, int64_t *out_i, double *out_d)
{
    if (row->type == CLAAS_BOOL) {
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return -1;
        }
        *out_i = text[0] == 't';
        *out_d = (double)*out_i;
        return 0;
    }
    const char *end = number_end(text);
    if (!end) {
        return -1;
    }
    if (row->type == CLAAS_INT) {
        return option_whole(row, text, out_i, out_d);
    }
    double number = strtod(text, NULL);
    if (*end == '\0') {
        return option_judge(row, number, out_i, out_d);
    }
    const struct unit *units = option_units(row->type);
    end += *end == ' ';
    for (; units && units->name; units++) {
        if (strcmp(end, units->name) == 0) {
            return option_judge(row, number * units->factor, out_i, out_d);
        }
    }
    return -1;
}
