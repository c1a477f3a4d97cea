/* SPDX-License-Identifier: MIT */
/* Time: nanoseconds inside, RFC 3339 outside. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define CLOCK_TEXT 32

int64_t clock_mono_ns(void); /* never jumps; for durations and deadlines */
int64_t clock_real_ns(void); /* since 1970; for records */

/* "2026-11-24T04:00:00.123Z" */
void clock_format(int64_t real_ns, char out[CLOCK_TEXT]);

#endif
