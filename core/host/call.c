/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "host/call.h"

#include "base/clock.h"
#include "base/err.h"

#include <stddef.h>

static const struct host_call *call_of(const struct claas_call *abi)
{
    return (const struct host_call *)(const void *)abi;
}

static uint32_t call_left_ms(const struct claas_call *abi)
{
    const struct host_call *call = call_of(abi);
    if (atomic_load_explicit(&call->cancelled, memory_order_relaxed)) {
        return 0;
    }
    if (call->deadline_ns == 0) {
        return UINT32_MAX;
    }
    int64_t left = call->deadline_ns - clock_mono_ns();
    if (left <= 0) {
        return 0;
    }
    /* Rounded up: 0 means stop, which a last half millisecond does not. */
    int64_t ms = (left + 999999) / 1000000;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static void call_progress(const struct claas_call *abi, uint64_t done, uint64_t total,
                          const char *what)
{
    const struct host_call *call = call_of(abi);
    if (call->progress) {
        call->progress(call->ctx, done, total, what ? what : "");
    }
}

void host_call_init(struct host_call *call, uint32_t timeout_ms, host_progress_fn progress,
                    void *ctx)
{
    call->abi = (struct claas_call){ .size = sizeof call->abi,
                                     .left_ms = call_left_ms,
                                     .progress = call_progress };
    atomic_init(&call->cancelled, 0);
    call->deadline_ns = timeout_ms ? clock_mono_ns() + (int64_t)timeout_ms * 1000000 : 0;
    call->progress = progress;
    call->ctx = ctx;
    call->request_id = "";
    call->traceparent = "";
}

static const char *trace_request_id(const struct claas_call *abi)
{
    return abi && abi->left_ms == call_left_ms ? call_of(abi)->request_id : "";
}

static const char *trace_parent(const struct claas_call *abi)
{
    return abi && abi->left_ms == call_left_ms ? call_of(abi)->traceparent : "";
}

const struct claas_trace host_call_trace = { .size = sizeof host_call_trace,
                                             .request_id = trace_request_id,
                                             .traceparent = trace_parent };

void host_call_cancel(struct host_call *call)
{
    atomic_store(&call->cancelled, 1);
}

int host_call_check(const struct host_call *call, struct claas_error *err)
{
    if (!call || call_left_ms(&call->abi) > 0) {
        return 0;
    }
    if (atomic_load(&call->cancelled)) {
        return err_set(err, CLAAS_ERR_CANCELLED, "", "cancelled");
    }
    return err_set(err, CLAAS_ERR_TIMEOUT, "", "out of time");
}

int host_call_check_abi(const struct claas_call *call, struct claas_error *err)
{
    if (!call || call->left_ms(call) > 0) {
        return 0;
    }
    if (call->left_ms == call_left_ms) {
        return host_call_check(call_of(call), err);
    }
    return err_set(err, CLAAS_ERR_CANCELLED, "", "cancelled, or out of time");
}
