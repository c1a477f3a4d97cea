/* SPDX-License-Identifier: MIT */
/* What the host lends to a plugin: the call in progress, the instance, a sink. All of it is since
 * 0.1. */
#ifndef CLAAS_HOST_H
#define CLAAS_HOST_H

#include <claas/error.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One call in progress; lives until the call returns (generate: until done). May be null: then
 * there is no deadline and nobody looks. */
struct claas_call {
    uint32_t size;
    uint32_t reserved0;
    /* [cb] Milliseconds left, UINT32_MAX without a deadline. 0: stop now and return CANCELLED, with
     * nothing half written. Long calls look at least once a second. */
    uint32_t (*left_ms)(const struct claas_call *call);
    /* [cb] done of total (0: unknown) `what` ("rows", "bytes"); `what` is borrowed. */
    void (*progress)(const struct claas_call *call, uint64_t done, uint64_t total,
                     const char *what);
};

/* Levels of log(). */
enum { CLAAS_LOG_ERROR, CLAAS_LOG_WARNING, CLAAS_LOG_INFO, CLAAS_LOG_DEBUG, CLAAS_LOG_TRACE };

/* Kinds of metric(). */
enum {
    CLAAS_METRIC_ADD, /* adds to a counter */
    CLAAS_METRIC_SET  /* sets a gauge */
};

/* One for each instance, which it outlives. */
struct claas_host {
    uint32_t size;
    uint32_t abi;         /* the host's CLAAS_ABI */
    const char *instance; /* name for messages: "engine" */
    const char *scratch;  /* private directory, kept over restarts; "": none */
    /* [cb] One line without a newline. Never prompts, answers or keys above CLAAS_LOG_TRACE. What
     * is returned as an error is not logged too. */
    void (*log)(const struct claas_host *host, int32_t level, const char *line);
    /* [cb] name: [a-z0-9_]*, 63 bytes, unit at its end; finite value. At most 256 names. */
    void (*metric)(const struct claas_host *host, int32_t kind, const char *name, double value);
    /* [cb] The present text of the secret in row `option` of the plugin's table, with a zero
     * behind, to buf. Ask at each use: files are read again, so that keys can be exchanged.
     * NOT_FOUND: none was configured, or its source is gone; EXHAUSTED: cap is too small. */
    int (*secret)(const struct claas_host *host, uint32_t option, char *buf, size_t cap,
                  struct claas_error *err);
    /* [cb] What the host offers under an id ("claas.NAME/1"), or null. */
    const void *(*extension)(const struct claas_host *host, const char *id);
};

/* Takes data in pieces of any size. */
struct claas_sink {
    uint32_t size;
    uint32_t reserved0;
    void *ctx;
    /* [cb] Takes all bytes, in order. Not 0: it takes no more, return an error. */
    int (*put)(void *ctx, const void *data, size_t bytes);
};

#ifdef __cplusplus
}
#endif

#endif
