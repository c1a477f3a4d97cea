/* SPDX-License-Identifier: MIT */
/* An extension of the host: whose call it is. A plugin asks host->extension(CLAAS_TRACE_ID), which gives this table or
 * null, and tells others (a server it calls, its own log) what it got. */
#ifndef CLAAS_TRACE_H
#define CLAAS_TRACE_H

#include <claas/host.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLAAS_TRACE_ID "claas.trace/1"

/* Texts are never null, "" when there is nothing to tell, and live as long as the call. Since 0.1. */
struct claas_trace {
    uint32_t size;
    uint32_t reserved0;
    /* [any thread] Id of the request that caused the call, as in X-Request-Id. */
    const char *(*request_id)(const struct claas_call *call);
    /* [any thread] The header traceparent of W3C Trace Context to send on. */
    const char *(*traceparent)(const struct claas_call *call);
};

#ifdef __cplusplus
}
#endif

#endif
