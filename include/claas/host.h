/* SPDX-License-Identifier: MIT */
/* What the host lends to a plugin: the call in progress, the instance, a sink. */
#ifndef CLAAS_HOST_H
#define CLAAS_HOST_H

#include <claas/error.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Levels of log(). */
enum { CLAAS_LOG_ERROR, CLAAS_LOG_WARNING, CLAAS_LOG_INFO, CLAAS_LOG_DEBUG, CLAAS_LOG_TRACE };
/* Kinds of metric(). */
enum { CLAAS_METRIC_ADD, CLAAS_METRIC_SET };
struct claas_call {                /* one call in progress; lives until the call returns (generate: until done) */
    uint32_t size, reserved0;
    uint32_t (*left_ms)(const struct claas_call *);   /* [cb] 0 = stop now (cancelled or late); look every second */
    void     (*progress)(const struct claas_call *, uint64_t done, uint64_t total, const char *what);   /* [cb] */
};
struct claas_host {                /* one per instance, outlives it */
    uint32_t size, abi;
    const char *instance, *scratch;                   /* name for messages; private directory, kept over restarts */
    void (*log)(const struct claas_host *, int32_t level, const char *line);                            /* [cb] */
    void (*metric)(const struct claas_host *, int32_t kind, const char *name, double value);            /* [cb] */
    int  (*secret)(const struct claas_host *, uint32_t option, char *buf, size_t cap, struct claas_error *);
                                                      /* [cb] its present text: files are read again, so keys rotate */
    const void *(*extension)(const struct claas_host *, const char *id);                                /* [cb] */
};
struct claas_sink { uint32_t size, reserved0; void *ctx; int (*put)(void *ctx, const void *data, size_t bytes); };

#ifdef __cplusplus
}
#endif

#endif
