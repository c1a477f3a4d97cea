/* SPDX-License-Identifier: MIT */
/* What handlers share: rooms or 503, violations as 422, values as JSON. */
#include "config.h"

#include "server/app.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "server/errors.h"
#include "server/snapshot.h"

#include <stdlib.h>
#include <string.h>

const struct config *app_config(const struct app *app, const struct http_request *r)
{
    const struct snapshot *s = http_taken(r);
    return s ? snapshot_config(s) : app->config;
}

static void app_unavailable(struct app *app, struct http_request *r, int configured, const char *what)
{
    struct claas_error err = ERR_INIT;
    if (atomic_load(&app->ready) || !configured) {
        (void)err_set(&err, CLAAS_ERR_UNAVAILABLE, "", "no %s is configured", what);
    } else {
        (void)err_set(&err, CLAAS_ERR_UNAVAILABLE, "", "the %s is still starting", what);
    }
    http_fail(r, &err);
}

struct adapters *app_adapters(struct app *app, struct http_request *r)
{
    struct adapters *a = atomic_load(&app->adapters);
    if (!a) {
        app_unavailable(app, r, app->config->storage.plugin[0] != '\0', "storage");
    }
    return a;
}

struct serving *app_serving(struct app *app, struct http_request *r)
{
    struct serving *s = atomic_load(&app->serving);
    if (!s) {
        app_unavailable(app, r, app->config->engine.plugin[0] || app->config->inference.plugin[0], "engine");
    }
    return s;
}

struct feedback *app_feedback(struct app *app, struct http_request *r)
{
    struct feedback *f = atomic_load(&app->feedback);
    if (!f) {
        app_unavailable(app, r, app->config->engine.plugin[0] != '\0', "engine");
    }
    return f;
}

struct jobs *app_jobs(struct app *app, struct http_request *r)
{
    struct jobs *j = atomic_load(&app->jobs);
    if (!j) {
        app_unavailable(app, r, app->config->engine.plugin[0] != '\0', "engine");
    }
    return j;
}

int app_name(struct adapters *a, const char *param, const char *name, const struct claas_call *call,
             struct adapter_name *out, struct claas_error *err)
{
    char ignored[ADAPTER_ID_CAP];
    int rc = adapter_id_strip(name, ignored, err);
    if (rc == 0) {
        rc = adapter_resolve(a, name, NULL, call, out, err);
    }
    return rc == CLAAS_ERR_NOT_FOUND ? err_set(err, rc, param, "there is no adapter '%s'", name) : rc;
}

int app_refused(struct http_request *r, struct check *c)
{
    if (!c->list && !c->failed) {
        return 0;
    }
    if (c->failed) {
        cJSON_Delete(c->list);
        http_answer(r, 500, NULL);
    } else {
        http_answer(r, 422, error_body_list(c->list, c->message, c->param));
    }
    c->list = NULL;
    return 1;
}

int app_put(cJSON *o, const char *name, cJSON *v)
{
    if (!v || !cJSON_AddItemToObject(o, name, v)) {
        cJSON_Delete(v);
        return -1;
    }
    return 0;
}

int app_push(cJSON *list, cJSON *v)
{
    if (!v || !cJSON_AddItemToArray(list, v)) {
        cJSON_Delete(v);
        return -1;
    }
    return 0;
}

cJSON *app_text(const char *s, size_t n)
{
    struct buf clean = BUF_INIT;
    size_t at = 0;
    while (at < n) {
        uint32_t ch = 0;
        size_t one = utf8_decode(s + at, n - at, &ch);
        if (one == 0 || ch == 0) {
            buf_adds(&clean, "\xEF\xBF\xBD");
            at += one ? one : 1;
        } else {
            buf_add(&clean, s + at, one);
            at += one;
        }
    }
    cJSON *v = clean.failed ? NULL : cJSON_CreateString(buf_str(&clean));
    buf_clear(&clean);
    return v;
}

cJSON *app_digest(const struct claas_digest *d)
{
    char hex[SHA256_HEX];
    static const struct claas_digest none;
    if (sha256_equal(d, &none)) {
        return cJSON_CreateNull();
    }
    sha256_hex(d, hex);
    return cJSON_CreateString(hex);
}

cJSON *app_time(int64_t real_ns)
{
    char text[CLOCK_TEXT];
    clock_format(real_ns, text);
    return cJSON_CreateString(text);
}

cJSON *app_number(uint64_t n)
{
    return cJSON_CreateNumber((double)n);
}

cJSON *app_parsed(const char *json)
{
    cJSON *v = NULL;
    struct claas_error ignored = ERR_INIT;
    if (!json || json_parse(json, strlen(json), "record", &v, &ignored)) {
        return cJSON_CreateObject();
    }
    return v;
}
