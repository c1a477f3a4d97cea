/* SPDX-License-Identifier: MIT */
/* JSON answers for people: an object as lines, a list as columns. */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include <cjson/cJSON.h>

#include <stdio.h>

/* "name: value" for every member; nested objects are indented, objects in a list are a line each, and
 * control characters are made harmless. */
void print_object(const cJSON *object, int indent, FILE *to);

/* One line for each element of `list`: the members `columns` (null-terminated) side by side under a
 * heading, or the element itself when it is a text. */
void print_table(const cJSON *list, const char *const *columns, FILE *to);

/* Replaces control characters, but for those in `allowed`, by blanks: text from outside must not
 * steer a terminal. */
void print_tame(char *text, const char *allowed);

#endif
