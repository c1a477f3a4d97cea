/* SPDX-License-Identifier: MIT */
/* Numbers for GET /metrics in the text format of Prometheus. Counting is lock-free. The names are one table, which the
 * manual page is held to. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { METRICS_ROUTES = 40, METRICS_STATUSES = 24, METRICS_BUCKETS = 14 };

/* Phases of a feedback transaction, as in timing_ms of its answer. */
#define METRICS_PHASES_TABLE(X) X(sleep) X(distill) X(save) X(wake) X(logprobs) X(total)
#define METRICS_PHASES_ONE(name) METRICS_PHASE_##name,
enum { METRICS_PHASES_TABLE(METRICS_PHASES_ONE) METRICS_PHASES };

/* Durations; the last bucket is of those beyond all bounds. */
struct metrics_histogram {
    atomic_ullong buckets[METRICS_BUCKETS + 1];
    atomic_ullong took_us;
};

struct metrics {
    int64_t begun_ns;      /* monotonic clock */
    int64_t begun_real_ns;
    /* One row more than routes: requests that fit none. Statuses by metrics_status. So there are never more lines than the
     * tables allow, whatever clients send. */
    atomic_ullong requests[METRICS_ROUTES + 1][METRICS_STATUSES];
    struct metrics_histogram took[METRICS_ROUTES + 1];
    struct metrics_histogram first_token;
    struct metrics_histogram steps[METRICS_PHASES];
    atomic_ullong prompt_tokens, completion_tokens;
    atomic_ullong steps_ok, steps_failed;
    atomic_ullong sweeps_ok, sweeps_failed, swept_contents, swept_bytes;
    atomic_int reload_failed;       /* the last one */
    atomic_llong reloaded_real_ns;  /* when the configuration that counts was read */
};

/* X(name, type, help): what there is. */
#define METRICS_TABLE(X) \
    X("claas_build_info", "gauge", "1, with the version as a label.") \
    X("claas_uptime_seconds", "gauge", "Time since the start.") \
    X("claas_config_last_reload_successful", "gauge", "1, or 0 when the last reload was refused.") \
    X("claas_config_last_reload_success_timestamp_seconds", "gauge", "When the configuration that counts was read.") \
    X("claas_http_requests_total", "counter", "Requests answered, by route, method and status.") \
    X("claas_http_request_duration_seconds", "histogram", \
      "Time from the header to the end of the answer, by route and method.") \
    X("claas_http_connections", "gauge", "Open connections.") \
    X("claas_http_running", "gauge", "Requests being worked on by a lane.") \
    X("claas_http_waiting", "gauge", "Requests waiting for their lane.") \
    X("claas_time_to_first_token_seconds", "histogram", "Time from the header of a request to its first token.") \
    X("claas_prompt_tokens_total", "counter", "Prompt tokens of answers given.") \
    X("claas_completion_tokens_total", "counter", "Tokens sampled for answers given.") \
    X("claas_steps_total", "counter", "Feedback transactions, by result (ok, error).") \
    X("claas_step_duration_seconds", "histogram", "Time of feedback transactions that went well, by phase.") \
    X("claas_adapters", "gauge", "Adapters found when the store was last listed for names.") \
    X("claas_versions_loaded", "gauge", "Adapter versions loaded for serving.") \
    X("claas_adapters_behind", "gauge", "Adapters whose newest version could not be loaded.") \
    X("claas_log_cache_hits_total", "counter", "Entries of adapters' logs found in memory.") \
    X("claas_log_cache_misses_total", "counter", "Entries of adapters' logs asked of the store.") \
    X("claas_log_cache_bytes", "gauge", "Memory of entries kept.") \
    X("claas_rollouts", "gauge", "Rollouts kept.") \
    X("claas_feedback_records", "gauge", "Feedback records kept.") \
    X("claas_sweeps_total", "counter", "Sweeps of the store, by result (ok, error).") \
    X("claas_swept_contents_total", "counter", "Contents that sweeps deleted.") \
    X("claas_swept_bytes_total", "counter", "Bytes of those.") \
    X("claas_plugin_metric", "untyped", "What plugins report, by instance and name.") \
    X("process_resident_memory_bytes", "gauge", "Resident memory of the process.") \
    X("process_virtual_memory_bytes", "gauge", "Virtual memory of the process.") \
    X("process_cpu_seconds_total", "counter", "Processor time of the process.") \
    X("process_start_time_seconds", "gauge", "When the process began, since 1970.") \
    X("process_open_fds", "gauge", "Open descriptors.") \
    X("process_max_fds", "gauge", "Descriptors the process may have.") \
    X("process_threads", "gauge", "Threads of the process.")

void metrics_init(struct metrics *m);
void metrics_answered(struct metrics *m, size_t route, int status, int64_t took_ns);
void metrics_took(struct metrics_histogram *h, int64_t took_ns);
/* A reload was tried. */
void metrics_reloaded(struct metrics *m, int failed);

/* "# HELP" and "# TYPE" of a name of the table; then lines. labels: without braces, may be "". */
void metrics_head(struct buf *out, const char *name);
void metrics_line(struct buf *out, const char *name, const char *labels, double value);

struct http_route;
/* Requests and times by route, uptime, process. */
void metrics_write(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out);

#endif
