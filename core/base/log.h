/* SPDX-License-Identifier: MIT */
/* Logging to standard error: one line, level, subsystem. Never prompts, completions, keys or tokens above trace. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/* The highest level that is written; LOG_INFO from the start. */
void log_set_level(int level);
/* 1 if lines of this level are written: saves making them. */
int log_enabled(int level);
/* "error" … "trace" to a level, -1 if it is none of them. */
int log_level_parse(const char *name);

/* `room` is the subsystem: "server", "adapters", or "plugin cpu". */
void log_line(int level, const char *room, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
