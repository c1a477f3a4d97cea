/* SPDX-License-Identifier: MIT */
/* Counting and writing of metrics. */
#include "config.h"

#include "server/metrics.h"

#include "base/clock.h"
#include "server/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ascending; the last row takes what is not listed. */
static const int metrics_statuses[METRICS_STATUSES] = {
    200, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 499, 500, 501, 502, 503, 504, 507, 0,
};

static const double metrics_bounds[METRICS_BUCKETS] = {
    0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300,
};

void metrics_init(struct metrics *m)
{
    memset(m, 0, sizeof *m);
    m->begun_ns = clock_mono_ns();
}

void metrics_answered(struct metrics *m, size_t route, int status, int64_t took_ns)
{
    size_t row = route < METRICS_ROUTES ? route : METRICS_ROUTES;
    size_t s = 0;
    while (s + 1 < METRICS_STATUSES && metrics_statuses[s] != status) {
        s++;
    }
    size_t b = 0;
    double seconds = (double)took_ns / 1e9;
    while (b < METRICS_BUCKETS && seconds > metrics_bounds[b]) {
        b++;
    }
    (void)atomic_fetch_add_explicit(&m->requests[row][s], 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&m->buckets[row][b], 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&m->took_us[row], (unsigned long long)(took_ns / 1000), memory_order_relaxed);
}

void metrics_head(struct buf *out, const char *name)
{
    static const struct { const char *name, *type, *help; } rows[] = {
#define X(n, t, h) { n, t, h },
        METRICS_TABLE(X)
#undef X
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, rows[i].help, name, rows[i].type);
        }
    }
}

void metrics_line(struct buf *out, const char *name, const char *labels, double value)
{
    buf_addf(out, "%s%s%s%s %.17g\n", name, labels[0] ? "{" : "", labels, labels[0] ? "}" : "", value);
}

static void metrics_label(const struct http_route *routes, size_t n, size_t row, char *out, size_t cap)
{
    if (row < n) {
        (void)snprintf(out, cap, "route=\"%s\",method=\"%s\"", routes[row].path, routes[row].method);
    } else {
        (void)snprintf(out, cap, "route=\"none\",method=\"\"");
    }
}

static void metrics_write_requests(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out)
{
    char label[160];
    metrics_head(out, "claas_http_requests_total");
    for (size_t i = 0; i <= METRICS_ROUTES; i++) {
        metrics_label(routes, n, i, label, sizeof label);
        for (size_t s = 0; s < METRICS_STATUSES; s++) {
            unsigned long long count = atomic_load_explicit(&m->requests[i][s], memory_order_relaxed);
            if (count > 0) {
                char full[192];
                (void)snprintf(full, sizeof full, "%s,status=\"%d\"", label, metrics_statuses[s]);
                metrics_line(out, "claas_http_requests_total", full, (double)count);
            }
        }
    }
}

static void metrics_write_times(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out)
{
    char label[160];
    char full[192];
    metrics_head(out, "claas_http_request_seconds");
    for (size_t i = 0; i <= METRICS_ROUTES; i++) {
        unsigned long long sum = 0;
        metrics_label(routes, n, i, label, sizeof label);
        for (size_t b = 0; b <= METRICS_BUCKETS; b++) {
            sum += atomic_load_explicit(&m->buckets[i][b], memory_order_relaxed);
        }
        if (sum == 0) {
            continue;
        }
        sum = 0;
        for (size_t b = 0; b <= METRICS_BUCKETS; b++) {
            char bound[32] = "+Inf";
            sum += atomic_load_explicit(&m->buckets[i][b], memory_order_relaxed);
            if (b < METRICS_BUCKETS) {
                (void)snprintf(bound, sizeof bound, "%g", metrics_bounds[b]);
            }
            (void)snprintf(full, sizeof full, "%s,le=\"%s\"", label, bound);
            metrics_line(out, "claas_http_request_seconds_bucket", full, (double)sum);
        }
        metrics_line(out, "claas_http_request_seconds_sum", label,
                     (double)atomic_load_explicit(&m->took_us[i], memory_order_relaxed) / 1e6);
        metrics_line(out, "claas_http_request_seconds_count", label, (double)sum);
    }
}

static void metrics_write_process(struct buf *out)
{
    char line[256];
    double resident_kb = 0;
    double threads = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "VmRSS:", 6) == 0) {
            resident_kb = strtod(line + 6, NULL);
        } else if (strncmp(line, "Threads:", 8) == 0) {
            threads = strtod(line + 8, NULL);
        }
    }
    if (f) {
        (void)fclose(f); /* only read */
    }
    metrics_head(out, "claas_process_resident_bytes");
    metrics_line(out, "claas_process_resident_bytes", "", resident_kb * 1024);
    metrics_head(out, "claas_process_threads");
    metrics_line(out, "claas_process_threads", "", threads);
}

void metrics_write(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out)
{
    metrics_head(out, "claas_build_info");
    metrics_line(out, "claas_build_info", "version=\"" PACKAGE_VERSION "\"", 1);
    metrics_head(out, "claas_uptime_seconds");
    metrics_line(out, "claas_uptime_seconds", "", (double)(clock_mono_ns() - m->begun_ns) / 1e9);
    metrics_write_requests(m, routes, n, out);
    metrics_write_times(m, routes, n, out);
    metrics_head(out, "claas_prompt_tokens_total");
    metrics_line(out, "claas_prompt_tokens_total", "", (double)atomic_load(&m->prompt_tokens));
    metrics_head(out, "claas_completion_tokens_total");
    metrics_line(out, "claas_completion_tokens_total", "", (double)atomic_load(&m->completion_tokens));
    metrics_head(out, "claas_steps_total");
    metrics_line(out, "claas_steps_total", "result=\"ok\"", (double)atomic_load(&m->steps_ok));
    metrics_line(out, "claas_steps_total", "result=\"error\"", (double)atomic_load(&m->steps_failed));
    metrics_write_process(out);
}
