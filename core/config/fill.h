/* SPDX-License-Identifier: MIT */
/* Parts of a configuration that are more than a value: each checks what was read and fills its part of the struct. */
#ifndef CONFIG_FILL_H
#define CONFIG_FILL_H

#include "config/config.h"

/* log: levels by subsystem, form. */
int fill_log(struct config *config, struct claas_error *err);
/* Counts, sizes and times, from values of the whole table. */
void fill_numbers(struct config *config, const struct claas_value *v);

#endif
