/* SPDX-License-Identifier: MIT */
/* Logging to standard error: one line, level, subsystem. Never prompts, completions, keys or tokens above trace. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/* AUTO: JOURNAL when standard error is the journal's (JOURNAL_STREAM), else PLAIN. */
enum log_format { LOG_AUTO, LOG_PLAIN, LOG_JOURNAL, LOG_JSON };

/* Subsystems that can have a level of their own; all plugins are one. */
#define LOG_ROOMS_TABLE(X) \
    X("server") X("http") X("access") X("config") X("jobs") X("feedback") X("serving") X("adapters") X("state") \
    X("host") X("plugin")

#define LOG_ROOMS_ONE(name) +1
enum { LOG_ROOMS = 0 LOG_ROOMS_TABLE(LOG_ROOMS_ONE) };

struct log_settings {
    int level;            /* of rooms without their own */
    int rooms[LOG_ROOMS]; /* in the order of the table; -1: none */
    enum log_format format;
};

/* Level info, nothing of its own, AUTO: as it is from the start. */
void log_settings_init(struct log_settings *out);
/* [any thread] From now on. */
void log_configure(const struct log_settings *settings);
/* The same level for all rooms. */
void log_set_level(int level);
/* 1 if some room writes lines of this level: saves making them. */
int log_enabled(int level);
/* "error" … "trace" to a level, -1 if it is none of them. */
int log_level_parse(const char *name);
/* The room's place in log_settings, -1 if there is none of that name; "plugin cpu" is "plugin". */
int log_room_find(const char *room);
const char *log_room_name(int i);

/* What the thread works on, told in each of its lines: borrowed texts, null for none. */
struct log_context {
    const char *request; /* id of the request, or of the one that a job came with */
    const char *trace;   /* id of the trace it belongs to */
};
/* Sets it for this thread, and returns the one before, to be put back. */
struct log_context log_context_set(struct log_context now);

/* `room` is the subsystem: "server", "adapters", or "plugin cpu". */
void log_line(int level, const char *room, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
