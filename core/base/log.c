/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOG_TEXT_CAP = 2048, LOG_LINE_CAP = 6144 };

/* Levels that count: [i] of room i, [LOG_ROOMS] of those that are no row. Offset by LOG_INFO, so that zero is info. */
static atomic_int log_above_info[LOG_ROOMS + 1];
static atomic_int log_highest = LOG_INFO;
static atomic_int log_form = LOG_AUTO;
static _Thread_local struct log_context log_now;

static const char *const log_names[] = { "error", "warning", "info", "debug", "trace" };
static const char *const log_rooms[LOG_ROOMS] = {
#define ROW(name) name,
    LOG_ROOMS_TABLE(ROW)
#undef ROW
};

/* ---- settings -------------------------------------------------------------------------------------------------------- */

/* Whether standard error is the stream that the journal gave us, as systemd.exec(5) says it is told. */
static int log_is_journal(void)
{
    const char *told = getenv("JOURNAL_STREAM");
    uintmax_t device = 0;
    uintmax_t inode = 0;
    struct stat st;
    return told && sscanf(told, "%ju:%ju", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           (uintmax_t)st.st_dev == device && (uintmax_t)st.st_ino == inode;
}

static enum log_format log_format_now(void)
{
    int form = atomic_load_explicit(&log_form, memory_order_relaxed);
    if (form == LOG_AUTO) {
        form = log_is_journal() ? LOG_JOURNAL : LOG_PLAIN;
        atomic_store(&log_form, form);
    }
    return (enum log_format)form;
}

void log_settings_init(struct log_settings *out)
{
    out->level = LOG_INFO;
    out->format = LOG_AUTO;
    for (int i = 0; i < LOG_ROOMS; i++) {
        out->rooms[i] = -1;
    }
}

void log_configure(const struct log_settings *settings)
{
    int highest = settings->level;
    for (int i = 0; i < LOG_ROOMS; i++) {
        int level = settings->rooms[i] < 0 ? settings->level : settings->rooms[i];
        atomic_store(&log_above_info[i], level - LOG_INFO);
        highest = level > highest ? level : highest;
    }
    atomic_store(&log_above_info[LOG_ROOMS], settings->level - LOG_INFO);
    atomic_store(&log_highest, highest);
    atomic_store(&log_form, settings->format);
}

void log_set_level(int level)
{
    struct log_settings settings;
    log_settings_init(&settings);
    settings.level = level;
    log_configure(&settings);
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

int log_room_find(const char *room)
{
    size_t n = strcspn(room, " ");
    for (int i = 0; i < LOG_ROOMS; i++) {
        if (strncmp(log_rooms[i], room, n) == 0 && log_rooms[i][n] == '\0') {
            return i;
        }
    }
    return -1;
}

const char *log_room_name(int i)
{
    return log_rooms[i];
}

struct log_context log_context_set(struct log_context now)
{
    struct log_context before = log_now;
    log_now = now;
    return before;
}

/* ---- lines ----------------------------------------------------------------------------------------------------------- */

/* Control characters could forge lines or steer a terminal. */
static void log_tame(char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f) {
            *s = ' ';
        }
    }
}

/* A piece of a line, cut where it ends. */
__attribute__((format(printf, 3, 4))) static size_t log_add(char *line, size_t at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + at, LOG_LINE_CAP - at, fmt, ap);
    va_end(ap);
    size_t end = n < 0 ? at : at + (size_t)n;
    return end < LOG_LINE_CAP ? end : LOG_LINE_CAP - 1;
}

/* A member of an object; the text is tame, but may be cut within a character, or be no text at all. */
static size_t log_add_member(char *line, size_t at, const char *name, const char *text)
{
    int is_text = utf8_valid(text, strlen(text));
    at = log_add(line, at, "%s\"%s\":\"", line[at - 1] == '{' ? "" : ",", name);
    for (; *text && at + 8 < LOG_LINE_CAP; text++) {
        if (*text == '"' || *text == '\\') {
            line[at++] = '\\';
        }
        line[at++] = (unsigned char)*text >= 0x80 && !is_text ? '?' : *text;
    }
    return log_add(line, at, "\"");
}

static size_t log_add_json(char *line, const char *level, const char *room, const char *text)
{
    char now[CLOCK_TEXT];
    clock_format(clock_real_ns(), now);
    line[0] = '{';
    size_t at = log_add_member(line, 1, "time", now);
    at = log_add_member(line, at, "level", level);
    at = log_add_member(line, at, "room", room);
    at = log_now.request ? log_add_member(line, at, "request", log_now.request) : at;
    at = log_now.trace ? log_add_member(line, at, "trace", log_now.trace) : at;
    at = log_add_member(line, at, "message", text);
    return log_add(line, at, "}");
}

/* The journal adds the time itself, and takes the priority from the front. */
static size_t log_add_plain(char *line, int journal, int level, const char *room, const char *text)
{
    static const char priorities[] = "34677";
    char now[CLOCK_TEXT];
    size_t at = 0;
    if (journal) {
        at = log_add(line, 0, "<%c>%s: %s", priorities[level], room, text);
    } else {
        clock_format(clock_real_ns(), now);
        at = log_add(line, 0, "%s %s %s: %s", now, log_names[level], room, text);
    }
    at = log_now.request ? log_add(line, at, " [request %s]", log_now.request) : at;
    return log_now.trace ? log_add(line, at, " [trace %s]", log_now.trace) : at;
}

void log_line(int level, const char *room, const char *fmt, ...)
{
    if (!log_enabled(level)) {
        return;
    }
    level = level < LOG_ERROR ? LOG_ERROR : level > LOG_TRACE ? LOG_TRACE : level;
    int i = log_room_find(room);
    if (level > LOG_INFO + atomic_load_explicit(&log_above_info[i < 0 ? LOG_ROOMS : i], memory_order_relaxed)) {
        return;
    }
    char text[LOG_TEXT_CAP];
    char line[LOG_LINE_CAP + 1];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_tame(text);
    enum log_format form = log_format_now();
    size_t n = form == LOG_JSON ? log_add_json(line, log_names[level], room, text)
                                : log_add_plain(line, form == LOG_JOURNAL, level, room, text);
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) {
        return; /* standard error is gone: there is nobody left to tell */
    }
}
