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
#include <strings.h>
#include <unistd.h>

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

/* ---- who may what --------------------------------------------------------------------------------------------------------- */

/* The key that was sent: as a bearer token, or by itself. */
static const char *app_token(const struct http_request *r)
{
    const char *line = http_asked(r, "Authorization");
    if (line && strncasecmp(line, "Bearer ", 7) == 0) {
        return line + 7 + strspn(line + 7, " ");
    }
    return http_asked(r, "X-API-Key");
}

static int app_right(const struct access_caller *c, const char *right, struct claas_error *err)
{
    uint32_t wanted = strcmp(right, "chat") == 0 ? ACCESS_CHAT : strcmp(right, "feedback") == 0 ? ACCESS_FEEDBACK
                                                                                                : ACCESS_ADMIN;
    if (strcmp(right, "owner") == 0 || access_has(c, wanted)) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_FORBIDDEN, "authorization", "the key '%s' lacks the right '%s'", c->key,
                   strcmp(right, "loopback") == 0 ? "admin" : right);
}

int app_admit(void *ctx, struct http_request *r, const struct http_route *route, struct access_caller *out,
              struct claas_error *err)
{
    struct app *app = ctx;
    int open = strcmp(route->right, "none") == 0 || (strcmp(route->right, "loopback") == 0 && http_is_local(r));
    if (open) {
        return 0;
    }
    uid_t uid = 0;
    if (!app->access || (http_peer(r, &uid) && (uid == geteuid() || uid == 0))) {
        *out = (struct access_caller){ .rights = ACCESS_CHAT | ACCESS_FEEDBACK | ACCESS_ADMIN };
        return 0; /* who may signal and read this process needs no key */
    }
    int rc = access_admit(app->access, app_token(r), out, err);
    return rc ? rc : app_right(out, route->right, err);
}

void app_moved(void *ctx, const struct access_caller *caller, uint64_t bytes)
{
    struct app *app = ctx;
    if (app->access) {
        access_bytes(app->access, caller, bytes);
    }
}

int app_may_make(const struct http_request *r, const char *param, const char *id, struct claas_error *err)
{
    const struct access_caller *c = http_caller(r);
    if (access_owns(c, id)) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_FORBIDDEN, param, "the key '%s' may make names below '%s/' only, not '%s'", c->key,
                   c->prefix, id);
}

int app_name(struct adapters *a, struct http_request *r, const char *param, const char *name,
             struct adapter_name *out, struct claas_error *err)
{
    char ignored[ADAPTER_ID_CAP];
    int rc = adapter_id_strip(name, ignored, err);
    if (rc == 0) {
        rc = adapter_resolve(a, name, NULL, http_call(r), out, err);
    }
    if (rc == 0 && !access_owns(http_caller(r), out->id)) {
        rc = CLAAS_ERR_NOT_FOUND; /* other people's: as if it were not there */
    }
    return rc == CLAAS_ERR_NOT_FOUND ? err_set(err, rc, param, "there is no adapter '%s'", name) : rc;
}

const char *app_prefix(const struct http_request *r, const char *asked, int *none)
{
    const char *own = http_caller(r)->prefix;
    const char *wanted = asked ? asked + strspn(asked, "/") : "";
    size_t n = strlen(wanted);
    n -= n > 0 && wanted[n - 1] == '/';
    if (!own[0] || access_below(own, wanted)) {
        return asked;
    }
    int wider = n == 0 || (strncmp(wanted, own, n) == 0 && own[n] == '/');
    *none = !wider && !(strncmp(wanted, own, n) == 0 && own[n] == '\0');
    return own;
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
