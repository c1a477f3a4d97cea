/* SPDX-License-Identifier: MIT */
/* Counting and writing of metrics. */
#include "config.h"

#include "server/metrics.h"

#include "base/clock.h"
#include "server/http.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Ascending; the last row takes what is not listed. */
static const int metrics_statuses[METRICS_STATUSES] = {
    200, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 499, 500, 501, 502, 503, 504, 507, 0,
};

static const double metrics_bounds[METRICS_BUCKETS] = {
    0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300,
};

void metrics_init(struct metrics *m)
{
    memset(m, 0, sizeof *m);
    m->begun_ns = clock_mono_ns();
    m->begun_real_ns = clock_real_ns();
    atomic_init(&m->reloaded_real_ns, m->begun_real_ns);
}

void metrics_took(struct metrics_histogram *h, int64_t took_ns)
{
    size_t b = 0;
    double seconds = (double)took_ns / 1e9;
    while (b < METRICS_BUCKETS && seconds > metrics_bounds[b]) {
        b++;
    }
    (void)atomic_fetch_add_explicit(&h->buckets[b], 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&h->took_us, (unsigned long long)(took_ns / 1000), memory_order_relaxed);
}

void metrics_reloaded(struct metrics *m, int failed)
{
    atomic_store(&m->reload_failed, failed);
    if (!failed) {
        atomic_store(&m->reloaded_real_ns, clock_real_ns());
    }
}

void metrics_answered(struct metrics *m, size_t route, int status, int64_t took_ns)
{
    size_t row = route < METRICS_ROUTES ? route : METRICS_ROUTES;
    size_t s = 0;
    while (s + 1 < METRICS_STATUSES && metrics_statuses[s] != status) {
        s++;
    }
    (void)atomic_fetch_add_explicit(&m->requests[row][s], 1, memory_order_relaxed);
    metrics_took(&m->took[row], took_ns);
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
                (void)snprintf(full, sizeof full, "%s,code=\"%d\"", label, metrics_statuses[s]);
                metrics_line(out, "claas_http_requests_total", full, (double)count);
            }
        }
    }
}

/* Buckets count what is at most their bound, those before included. */
static void metrics_write_histogram(struct metrics_histogram *h, const char *name, const char *label, struct buf *out)
{
    char full[224];
    char named[96];
    unsigned long long sum = 0;
    (void)snprintf(named, sizeof named, "%s_bucket", name);
    for (size_t b = 0; b <= METRICS_BUCKETS; b++) {
        char bound[32] = "+Inf";
        sum += atomic_load_explicit(&h->buckets[b], memory_order_relaxed);
        if (b < METRICS_BUCKETS) {
            (void)snprintf(bound, sizeof bound, "%g", metrics_bounds[b]);
        }
        (void)snprintf(full, sizeof full, "%s%sle=\"%s\"", label, label[0] ? "," : "", bound);
        metrics_line(out, named, full, (double)sum);
    }
    (void)snprintf(named, sizeof named, "%s_sum", name);
    metrics_line(out, named, label, (double)atomic_load_explicit(&h->took_us, memory_order_relaxed) / 1e6);
    (void)snprintf(named, sizeof named, "%s_count", name);
    metrics_line(out, named, label, (double)sum);
}

static int metrics_is_used(struct metrics_histogram *h)
{
    unsigned long long sum = 0;
    for (size_t b = 0; b <= METRICS_BUCKETS; b++) {
        sum += atomic_load_explicit(&h->buckets[b], memory_order_relaxed);
    }
    return sum > 0;
}

/* Routes that nobody asked for are left out. */
static void metrics_write_times(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out)
{
    char label[160];
    metrics_head(out, "claas_http_request_duration_seconds");
    for (size_t i = 0; i <= METRICS_ROUTES; i++) {
        if (metrics_is_used(&m->took[i])) {
            metrics_label(routes, n, i, label, sizeof label);
            metrics_write_histogram(&m->took[i], "claas_http_request_duration_seconds", label, out);
        }
    }
}

static void metrics_write_steps(struct metrics *m, struct buf *out)
{
    static const char *const phases[METRICS_PHASES] = {
#define PHASE(name) "phase=\"" #name "\"",
        METRICS_PHASES_TABLE(PHASE)
#undef PHASE
    };
    metrics_head(out, "claas_steps_total");
    metrics_line(out, "claas_steps_total", "result=\"ok\"", (double)atomic_load(&m->steps_ok));
    metrics_line(out, "claas_steps_total", "result=\"error\"", (double)atomic_load(&m->steps_failed));
    metrics_head(out, "claas_step_duration_seconds");
    for (size_t i = 0; i < METRICS_PHASES; i++) {
        metrics_write_histogram(&m->steps[i], "claas_step_duration_seconds", phases[i], out);
    }
}

static void metrics_one(struct buf *out, const char *name, double value)
{
    metrics_head(out, name);
    metrics_line(out, name, "", value);
}

static void metrics_write_sweeps(struct metrics *m, struct buf *out)
{
    metrics_head(out, "claas_sweeps_total");
    metrics_line(out, "claas_sweeps_total", "result=\"ok\"", (double)atomic_load(&m->sweeps_ok));
    metrics_line(out, "claas_sweeps_total", "result=\"error\"", (double)atomic_load(&m->sweeps_failed));
    metrics_one(out, "claas_swept_contents_total", (double)atomic_load(&m->swept_contents));
    metrics_one(out, "claas_swept_bytes_total", (double)atomic_load(&m->swept_bytes));
}

static double metrics_open_fds(void)
{
    double n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) {
        n++;
    }
    if (dir) {
        (void)closedir(dir); /* only read */
    }
    return n > 3 ? n - 3 : 0; /* less ".", ".." and that of the directory itself */
}

static void metrics_write_process(const struct metrics *m, struct buf *out)
{
    char line[256];
    double resident_kb = 0;
    double virtual_kb = 0;
    double threads = 0;
    struct rlimit files = { 0 };
    struct rusage used = { 0 };
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "VmRSS:", 6) == 0) {
            resident_kb = strtod(line + 6, NULL);
        } else if (strncmp(line, "VmSize:", 7) == 0) {
            virtual_kb = strtod(line + 7, NULL);
        } else if (strncmp(line, "Threads:", 8) == 0) {
            threads = strtod(line + 8, NULL);
        }
    }
    if (f) {
        (void)fclose(f); /* only read */
    }
    (void)getrlimit(RLIMIT_NOFILE, &files); /* both cannot fail for ourselves */
    (void)getrusage(RUSAGE_SELF, &used);
    metrics_one(out, "process_resident_memory_bytes", resident_kb * 1024);
    metrics_one(out, "process_virtual_memory_bytes", virtual_kb * 1024);
    metrics_one(out, "process_cpu_seconds_total",
                (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                    (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    metrics_one(out, "process_start_time_seconds", (double)m->begun_real_ns / 1e9);
    metrics_one(out, "process_open_fds", metrics_open_fds());
    metrics_one(out, "process_max_fds", (double)files.rlim_cur);
    metrics_one(out, "process_threads", threads);
}

void metrics_write(struct metrics *m, const struct http_route *routes, size_t n, struct buf *out)
{
    metrics_head(out, "claas_build_info");
    metrics_line(out, "claas_build_info", "version=\"" PACKAGE_VERSION "\"", 1);
    metrics_one(out, "claas_uptime_seconds", (double)(clock_mono_ns() - m->begun_ns) / 1e9);
    metrics_one(out, "claas_config_last_reload_successful", !atomic_load(&m->reload_failed));
    metrics_one(out, "claas_config_last_reload_success_timestamp_seconds",
                (double)atomic_load(&m->reloaded_real_ns) / 1e9);
    metrics_write_requests(m, routes, n, out);
    metrics_write_times(m, routes, n, out);
    metrics_head(out, "claas_time_to_first_token_seconds");
    metrics_write_histogram(&m->first_token, "claas_time_to_first_token_seconds", "", out);
    metrics_one(out, "claas_prompt_tokens_total", (double)atomic_load(&m->prompt_tokens));
    metrics_one(out, "claas_completion_tokens_total", (double)atomic_load(&m->completion_tokens));
    metrics_write_steps(m, out);
    metrics_write_sweeps(m, out);
    metrics_write_process(m, out);
}
