/* SPDX-License-Identifier: MIT */
/* JSON over cJSON, with the limits cJSON lacks: size, depth, UTF-8, no duplicate keys; and typed look-ups. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <cjson/cJSON.h>
#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH = 64 };

/* Parses exactly one value from n bytes. Refused: invalid UTF-8, a NUL byte, nesting deeper than JSON_DEPTH,
 * duplicate keys in one object, texts with U+0000, anything but blanks behind the value: INVALID. EXHAUSTED when out of
 * memory. `name` is what the text is, for messages. */
int json_parse(const char *text, size_t n, const char *name, cJSON **out, struct claas_error *err);

/* Compact text on the heap (free with free()); null when out of memory. */
char *json_print(const cJSON *value);

/* Puts item into an object under name, or behind the others of an array, and owns it then; it is freed on failure. 0, or
 * -1 when out of memory, also where object, array or item are null because of that: a document is checked by the sum. */
int json_put(cJSON *object, const char *name, cJSON *item);
int json_push(cJSON *array, cJSON *item);

/* Member of an object with exactly this name, or null (also when it is JSON null). */
const cJSON *json_get(const cJSON *object, const char *name);

/* Typed members. Absent or null: 0 with *out left as it is. Wrong type or range: INVALID, what = name. */
int json_get_text(const cJSON *object, const char *name, const char **out, struct claas_error *err);
int json_get_int(const cJSON *object, const char *name, int64_t min, int64_t max, int64_t *out,
                 struct claas_error *err);
int json_get_real(const cJSON *object, const char *name, double min, double max, double *out,
                  struct claas_error *err);
int json_get_bool(const cJSON *object, const char *name, int *out, struct claas_error *err);

#endif
