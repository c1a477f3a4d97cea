/* SPDX-License-Identifier: MIT */
/* The call token: a deadline, a cancel flag and a progress callback behind struct claas_call. */
#ifndef HOST_CALL_H
#define HOST_CALL_H

#include <claas/host.h>
#include <claas/trace.h>

#include <stdatomic.h>
#include <stdint.h>

/* [any thread] `what` lives for the call only. Returns nothing: cancelling is host_call_cancel's
 * matter. */
typedef void (*host_progress_fn)(void *ctx, uint64_t done, uint64_t total, const char *what);

/* Lives on the caller's stack or heap until the call returned (generate: until done). Not to be
 * copied. */
struct host_call {
    struct claas_call abi; /* first: the plugin's pointer is ours */
    atomic_int cancelled;
    int64_t deadline_ns; /* monotonic clock; 0 = none */
    host_progress_fn progress;
    void *ctx;
    const char *request_id;  /* who caused it, "" where nobody is known; these outlive the call */
    const char *traceparent;
};

/* What the host lends as CLAAS_TRACE_ID. */
extern const struct claas_trace host_call_trace;

/* timeout_ms 0 = no deadline; progress may be null. */
void host_call_init(struct host_call *call, uint32_t timeout_ms, host_progress_fn progress,
                    void *ctx);

/* [any thread, signal handlers too] The call is to end soon. */
void host_call_cancel(struct host_call *call);

/* 0 while it may go on, else CLAAS_ERR_CANCELLED or CLAAS_ERR_TIMEOUT with a message. Null: always
 * 0. */
int host_call_check(const struct host_call *call, struct claas_error *err);

/* The same for any token: one that is not ours does not tell lateness from cancelling, and counts
 * as cancelled. */
int host_call_check_abi(const struct claas_call *call, struct claas_error *err);

#endif
