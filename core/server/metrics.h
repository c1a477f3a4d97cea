/* SPDX-License-Identifier: MIT */
/* Numbers for GET /metrics in the text format of Prometheus. Counting is lock-free. The names are one table, which the
 * manual page is held to. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { METRICS_ROUTES = 40, METRICS_STATUSES = 24, METRICS_BUCKETS = 12 };

struct metrics {
    int64_t begun_ns; /* monotonic clock */
    /* One row more than routes: requests that fit none. Statuses by metrics_status. */
    atomic_ullong requests[METRICS_ROUTES + 1][METRICS_STATUSES];
    atomic_ullong buckets[METRICS_ROUTES + 1][METRICS_BUCKETS + 1];
    atomic_ullong took_us[METRICS_ROUTES + 1];
    atomic_ullong prompt_tokens, completion_tokens;
    atomic_ullong steps_ok, steps_failed;
};

/* X(name, type, help): what there is. */
#define METRICS_TABLE(X) \
    X("claas_build_info", "gauge", "1, with the version as a label.") \
    X("claas_uptime_seconds", "gauge", "Time since the start.") \
    X("claas_http_requests_total", "counter", "Requests answered, by route, method and status.") \
    X("claas_http_request_seconds", "histogram", "Time from the header to the end of the answer, by route and method.") \
    X("claas_http_connections", "gauge", "Open connections.") \
    X("claas_http_running", "gauge", "Requests being worked on by a lane.") \
    X("claas_http_waiting", "gauge", "Requests waiting for their lane.") \
    X("claas_prompt_tokens_total", "counter", "Prompt tokens of answers given.") \
    X("claas_completion_tokens_total", "counter", "Tokens sampled for answers given.") \
    X("claas_steps_total", "counter", "Feedback transactions, by result (ok, error).") \
    X("claas_versions_loaded", "gauge", "Adapter versions loaded for serving.") \
    X("claas_adapters_behind", "gauge", "Adapters whose newest version could not be loaded.") \
    X("claas_rollouts", "gauge", "Rollouts kept.") \
    X("claas_feedback_records", "gauge", "Feedback records kept.") \
    X("claas_plugin_metric", "untyped", "What plugins report, by instance and name.") \
    X("claas_process_resident_bytes", "gauge", "Resident memory of the process.") \
    X("claas_process_threads", "gauge", "Threads of the process.")

void metrics_init(struct metrics *m);
void metrics_answered(struct metrics *m, size_t route, int status, int64_t took_ns);

/* "# HELP" and "# TYPE" of a name of the table; then lines. labels: without braces, may be "". */
void metrics_head(struct buf *out, const char *name);
void metrics_line(struct buf *out, const char *name, const char *labels, double value);

struct http_route;
/* Requests and times by route, uptime, process. */
void metrics_write(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out);

#endif
