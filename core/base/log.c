/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static atomic_int log_highest = LOG_INFO;
static const char *const log_names[] = { "error", "warning", "info", "debug", "trace" };

void log_set_level(int level)
{
    atomic_store(&log_highest, level);
}

int log_enabled(int level)
{
    return level <= atomic_load_explicit(&log_highest, memory_order_relaxed);
}

int log_level_parse(const char *name)
{
    for (int i = 0; i <= LOG_TRACE; i++) {
        if (strcmp(name, log_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

/* Control characters could forge lines or steer a terminal. */
static void log_tame(char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f) {
            *s = ' ';
        }
    }
}

void log_line(int level, const char *room, const char *fmt, ...)
{
    if (!log_enabled(level)) {
        return;
    }
    char now[CLOCK_TEXT];
    char text[2048];
    char line[2304];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_tame(text);
    clock_format(clock_real_ns(), now);
    int n = snprintf(line, sizeof line, "%s %s %s: %s\n", now, log_names[level < 0 ? 0 : level > 4 ? 4 : level],
                     room, text);
    if (n >= (int)sizeof line) {
        n = sizeof line - 1;
        line[n - 1] = '\n';
    }
    if (write(STDERR_FILENO, line, (size_t)n) < 0) {
        return; /* standard error is gone: there is nobody left to tell */
    }
}
