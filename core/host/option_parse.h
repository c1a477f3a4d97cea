/* SPDX-License-Identifier: MIT */
/* One option at a time: spelling to value, value to spelling, and what a table expects in words. */
#ifndef HOST_OPTION_PARSE_H
#define HOST_OPTION_PARSE_H

#include "host/option.h"

#include <claas/error.h>
#include <claas/option.h>

#include <stddef.h>
#include <stdint.h>

enum { OPTION_EXPECT_CAP = 320, OPTION_SPELL_CAP = 64 };

/* "a whole number from 1 to 256", "one of 'a', 'b'". */
void option_expect(const struct claas_option *row, char out[OPTION_EXPECT_CAP]);

/* "NAME: expected …, found 'text'", INVALID, what = name. */
int option_refuse(const struct claas_option *row, const char *found, struct claas_error *err);

/* 1 if the row has bounds at all. */
int option_bounded(const struct claas_option *row);

/* 1 if there are no choices or this is one of them. */
int option_chosen(const struct claas_option *row, const char *text, size_t n);

/* BOOL, INT, REAL, BYTES, MS from text, judged by bounds; 0 or -1 with nothing changed. */
int option_number(const struct claas_option *row, const char *text, int64_t *out_i, double *out_d);

/* A number judged by type and bounds; 0 or -1. */
int option_judge(const struct claas_option *row, double number, int64_t *out_i, double *out_d);

/* Text that option_number reads back as the same value: "64MiB", "2s", "0.5", "true". */
void option_spell(const struct claas_option *row, const struct claas_value *value,
                  char out[OPTION_SPELL_CAP]);

#endif
