/* SPDX-License-Identifier: MIT */
/* GET /, /health, /v1/health, /metrics: what the daemon tells of itself. Health waits for nothing. */
#include "config.h"

#include "server/app.h"

#include "base/buf.h"
#include "base/err.h"
#include "host/host.h"

#include <stdio.h>
#include <string.h>

void info_root(void *ctx, struct http_request *r)
{
    (void)ctx;
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < app_n_routes && !failed; i++) {
        const struct http_route *route = &app_routes[i];
        cJSON *row = cJSON_CreateObject();
        failed = app_put(row, "method", cJSON_CreateString(route->method)) |
                 app_put(row, "path", cJSON_CreateString(route->path)) |
                 app_put(row, "doc", cJSON_CreateString(route->doc)) | app_push(list, row);
    }
    failed |= app_put(o, "name", cJSON_CreateString("CLaaS API"));
    failed |= app_put(o, "version", cJSON_CreateString(PACKAGE_VERSION));
    failed |= app_put(o, "description", cJSON_CreateString("Continual learning as a service"));
    failed |= app_put(o, "docs", cJSON_CreateString("claasd(8)"));
    failed |= app_put(o, "routes", list);
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    http_answer(r, 200, o);
}

/* The worker's state as a word; *why: the reason, or null. */
static const char *info_worker(struct app *app, struct serving_health *h, const char **why)
{
    struct serving *s = atomic_load(&app->serving);
    *why = NULL;
    if (!atomic_load(&app->ready)) {
        *why = "still starting";
        return "starting";
    }
    if (!s || (!app->config->engine.plugin[0] && !app->config->inference.plugin[0])) {
        return "none"; /* nothing is configured to answer: that is as it should be */
    }
    serving_health(s, h);
    if (h->state == CLAAS_READY) {
        return "healthy";
    }
    *why = h->text;
    return h->state == CLAAS_STARTING ? "starting" : h->state == CLAAS_DEGRADED ? "degraded" : "unhealthy";
}

void info_health(void *ctx, struct http_request *r)
{
    struct serving_health h = { 0 };
    const char *why = NULL;
    const char *worker = info_worker(ctx, &h, &why);
    int well = strcmp(worker, "healthy") == 0 || strcmp(worker, "none") == 0;
    cJSON *o = cJSON_CreateObject();
    cJSON *w = cJSON_CreateObject();
    int failed = app_put(w, "status", cJSON_CreateString(worker));
    failed |= app_put(w, "error", why ? cJSON_CreateString(why) : cJSON_CreateNull());
    failed |= app_put(o, "status", cJSON_CreateString(well ? "healthy" : "degraded")) | app_put(o, "worker", w);
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    http_answer(r, 200, o);
}

struct info_plugin {
    struct buf *out;
    const char *instance;
};

static void info_plugin_metric(void *ctx, int32_t kind, const char *name, double value)
{
    struct info_plugin *p = ctx;
    char label[160];
    (void)kind;
    (void)snprintf(label, sizeof label, "instance=\"%s\",name=\"%s\"", p->instance, name);
    metrics_line(p->out, "claas_plugin_metric", label, value);
}

static void info_gauge(struct buf *out, const char *name, double value)
{
    metrics_head(out, name);
    metrics_line(out, name, "", value);
}

static void info_adapters(struct adapters *a, struct buf *out)
{
    struct adapters_counts counts = { 0 };
    if (a) {
        adapters_count(a, &counts);
    }
    info_gauge(out, "claas_adapters", (double)counts.known);
    info_gauge(out, "claas_log_cache_hits_total", (double)counts.hits);
    info_gauge(out, "claas_log_cache_misses_total", (double)counts.misses);
    info_gauge(out, "claas_log_cache_bytes", (double)counts.bytes);
}

void info_metrics(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct buf out = BUF_INIT;
    struct http_load load;
    struct state_counts counts;
    struct serving_health h = { 0 };
    struct claas_error ignored = ERR_INIT;
    struct serving *s = atomic_load(&app->serving);
    metrics_write(&app->metrics, app_routes, app_n_routes, &out);
    http_load(app->http, &load);
    info_gauge(&out, "claas_http_connections", load.connections);
    info_gauge(&out, "claas_http_running", load.running);
    info_gauge(&out, "claas_http_waiting", load.waiting);
    if (s) {
        serving_health(s, &h);
    }
    info_adapters(atomic_load(&app->adapters), &out);
    info_gauge(&out, "claas_versions_loaded", h.n_loaded);
    info_gauge(&out, "claas_adapters_behind", h.n_behind);
    if (state_count(app->state, &counts, &ignored) == 0) {
        info_gauge(&out, "claas_rollouts", (double)counts.rollouts);
        info_gauge(&out, "claas_feedback_records", (double)counts.feedback);
    }
    metrics_head(&out, "claas_plugin_metric");
    for (size_t i = 0; i < sizeof app->instances / sizeof *app->instances; i++) {
        struct host_instance *instance = atomic_load(&app->instances[i]);
        int again = i == 2 && instance == atomic_load(&app->instances[0]); /* one instance, two kinds */
        if (instance && !again) {
            struct info_plugin p = { &out, host_instance_name(instance) };
            host_metrics(instance, info_plugin_metric, &p);
        }
    }
    char *text = out.failed ? NULL : buf_take(&out);
    buf_clear(&out);
    http_answer_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", text);
}
