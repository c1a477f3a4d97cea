/* SPDX-License-Identifier: MIT */
/* /v1/adapters…: one adapter, its log, rollback, aliases. */
#include "config.h"

#include "server/app.h"

#include "base/err.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

static cJSON *adapter_files(const struct adapter_entry *e)
{
    cJSON *list = cJSON_CreateArray();
    int failed = !list;
    for (uint32_t i = 0; i < e->n_files && !failed; i++) {
        const struct claas_file *f = e->files[i];
        cJSON *o = cJSON_CreateObject();
        cJSON *roles = cJSON_CreateArray();
        failed = f->roles & CLAAS_SERVE && app_push(roles, cJSON_CreateString("serve"));
        failed |= f->roles & CLAAS_TRAIN && app_push(roles, cJSON_CreateString("train"));
        failed |= f->roles & CLAAS_ABOUT && app_push(roles, cJSON_CreateString("about"));
        failed |= app_put(o, "name", cJSON_CreateString(f->name)) | app_put(o, "bytes", app_number(f->bytes));
        failed |= app_put(o, "sha256", app_digest(&f->sha256)) | app_put(o, "roles", roles);
        failed |= app_push(list, o);
    }
    if (failed) {
        cJSON_Delete(list);
        return NULL;
    }
    return list;
}

/* Whose feedback made the version, where the audit still knows; "" is somebody without a key. */
static cJSON *adapter_owner(struct state *s, const char *job)
{
    struct claas_error ignored = ERR_INIT;
    char *owner = NULL;
    cJSON *v = state_audit_owner(s, job, &owner, &ignored) == 0 ? cJSON_CreateString(owner) : cJSON_CreateNull();
    free(owner);
    return v;
}

static cJSON *adapter_entry_body(struct state *s, const struct adapter_entry *e)
{
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "id", cJSON_CreateString(e->id)) | app_put(o, "version", app_number(e->n)) |
                 app_put(o, "kind", cJSON_CreateString(adapter_kind_name(e->kind))) |
                 app_put(o, "time", app_time(e->time_ns)) | app_put(o, "job", cJSON_CreateString(e->job)) |
                 app_put(o, "owner", adapter_owner(s, e->job)) |
                 app_put(o, "engine", cJSON_CreateString(e->engine)) |
                 app_put(o, "format", cJSON_CreateString(e->format)) |
                 app_put(o, "base_model", cJSON_CreateString(e->base_name)) |
                 app_put(o, "base", cJSON_CreateString(e->base)) | app_put(o, "serve", app_digest(&e->serve)) |
                 app_put(o, "state", app_digest(&e->state)) | app_put(o, "entry", app_digest(&e->sha256)) |
                 app_put(o, "files", adapter_files(e)) | app_put(o, "settings", app_parsed(e->settings_json)) |
                 app_put(o, "metrics", app_parsed(e->metrics_json));
    if (e->of > 0) {
        failed |= app_put(o, "of", app_number(e->of));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* The adapter that ?id= means: 1, or it has been answered. */
static int adapter_query(struct app *app, struct http_request *r, struct check *c, struct adapters **out_a,
                         struct adapter_name *out)
{
    const char *id = NULL;
    struct claas_error err = ERR_INIT;
    check_query_text(c, http_query(r, "id"), "id", 1, &id);
    struct adapters *a = app_refused(r, c) ? NULL : app_adapters(app, r);
    if (!a) {
        return 0;
    }
    if (app_name(a, r, "id", id, out, &err)) {
        http_fail(r, &err);
        return 0;
    }
    *out_a = a;
    return 1;
}

void adapter_show(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    struct adapters *a = NULL;
    struct adapter_name name;
    struct adapter_entry *e = NULL;
    struct adapter_names marks = { 0 };
    if (!adapter_query(app, r, &c, &a, &name)) {
        return;
    }
    int rc = name.n ? adapter_entry_get(a, name.id, name.n, http_call(r), &e, &err)
                    : adapter_head(a, name.id, http_call(r), &e, &err);
    if (rc == 0) {
        rc = adapter_mark_list(a, name.id, http_call(r), &marks, &err);
    }
    if (rc) {
        http_fail(r, &err);
    } else {
        cJSON *o = adapter_entry_body(app->state, e);
        /* no list of texts is made of a null pointer */
        cJSON *tags = marks.n ? cJSON_CreateStringArray((const char *const *)marks.at, (int)marks.n) : cJSON_CreateArray();
        if (!o) {
            cJSON_Delete(tags);
        } else if (app_put(o, "marks", tags)) {
            cJSON_Delete(o);
            o = NULL;
        }
        http_answer(r, 200, o);
    }
    adapter_names_clear(&marks);
    adapter_entry_unref(e);
}

void adapter_versions(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    struct adapters *a = NULL;
    struct adapter_name name;
    struct adapter_entries page = { 0 };
    int64_t limit = 100;
    int64_t before = 0;
    check_query_int(&c, http_query(r, "limit"), "limit", 1, 1000, &limit);
    check_query_int(&c, http_query(r, "before"), "before", 1, 1LL << 53, &before);
    if (!adapter_query(app, r, &c, &a, &name)) {
        return;
    }
    if (adapter_history(a, name.id, (uint64_t)before, (uint32_t)limit, http_call(r), &page, &err)) {
        http_fail(r, &err);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < page.n && !failed; i++) {
        failed = app_push(list, adapter_entry_body(app->state, page.at[i]));
    }
    failed |= app_put(o, "id", cJSON_CreateString(name.id)) | app_put(o, "versions", list);
    failed |= app_put(o, "next", page.next ? app_number(page.next) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    adapter_entries_clear(&page);
    http_answer(r, 200, o);
}

/* Serving follows at once. If it cannot, the version stays committed and health tells. */
static int adapter_follow(struct app *app, const char *id, const struct claas_call *call)
{
    struct claas_error err = ERR_INIT;
    struct serving *s = atomic_load(&app->serving);
    if (!s || (!app->config->engine.plugin[0] && !app->config->inference.plugin[0])) {
        return 0;
    }
    if (serving_follow(s, id, call, &err)) {
        log_line(LOG_WARNING, "server", "cannot serve the newest version of '%s' yet: %s", id, err.message);
        return 0;
    }
    return 1;
}

void adapter_roll(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("body");
    struct claas_error err = ERR_INIT;
    const char *id = NULL;
    int64_t version = 0;
    struct adapter_name name;
    struct adapter_entry *e = NULL;
    check_text(&c, http_body(r), "id", 1, 1, &id);
    if (!check_int(&c, http_body(r), "version", 1, 1LL << 53, &version) && !c.list) {
        check_fail(&c, "version", "missing", "Field required", http_body(r));
    }
    struct adapters *a = app_refused(r, &c) ? NULL : app_adapters(app, r);
    if (!a) {
        return;
    }
    int rc = app_name(a, r, "id", id, &name, &err);
    if (rc == 0) {
        rc = adapter_rollback(a, name.id, (uint64_t)version, http_request_id(r), http_call(r), &e, &err);
    }
    if (rc) {
        http_fail(r, &err);
        return;
    }
    int serves = adapter_follow(app, name.id, http_call(r));
    cJSON *o = adapter_entry_body(app->state, e);
    if (o && app_put(o, "serves", cJSON_CreateBool(serves))) {
        cJSON_Delete(o);
        o = NULL;
    }
    adapter_entry_unref(e);
    http_answer(r, 200, o);
}

/* ---- aliases ----------------------------------------------------------------------------------------------------------- */

/* id null: what it means cannot be read. */
static cJSON *alias_body(const char *alias, const char *id)
{
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "alias", cJSON_CreateString(alias));
    failed |= app_put(o, "id", id ? cJSON_CreateString(id) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* Such an alias would stand in front of the base model, which could not be asked any more. */
static int alias_check(struct app *app, const char *alias, struct claas_error *err)
{
    struct serving *s = atomic_load(&app->serving);
    if (s && strcmp(alias, serving_model_name(s)) == 0) {
        return err_set(err, CLAAS_ERR_INVALID, "alias", "'%s' is the name of the base model and cannot be an alias",
                       alias);
    }
    return 0;
}

void alias_set(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("body");
    struct claas_error err = ERR_INIT;
    const char *alias = NULL;
    const char *id = NULL;
    check_text(&c, http_body(r), "alias", 1, 1, &alias);
    check_text(&c, http_body(r), "id", 1, 1, &id);
    struct adapters *a = app_refused(r, &c) ? NULL : app_adapters(app, r);
    if (!a) {
        return;
    }
    struct adapter_name ignored;
    int limited = http_caller(r)->prefix[0] != '\0';
    if (alias_check(app, alias, &err) || app_may_make(r, "alias", alias, &err) ||
        (limited && app_name(a, r, "id", id, &ignored, &err)) || adapter_alias_set(a, alias, id, http_call(r), &err)) {
        http_fail(r, &err);
    } else {
        http_answer(r, 200, alias_body(alias, id));
    }
}

void alias_list(void *ctx, struct http_request *r)
{
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    const char *prefix = NULL;
    const char *after = NULL;
    int64_t limit = 1000;
    struct adapter_names names = { 0 };
    check_query_text(&c, http_query(r, "prefix"), "prefix", 0, &prefix);
    check_query_text(&c, http_query(r, "after"), "after", 0, &after);
    check_query_int(&c, http_query(r, "limit"), "limit", 1, 1000, &limit);
    struct adapters *a = app_refused(r, &c) ? NULL : app_adapters(ctx, r);
    if (!a) {
        return;
    }
    int none = 0;
    prefix = app_prefix(r, prefix, &none);
    int rc = none ? 0 : adapter_alias_list(a, prefix, after, (uint32_t)limit, http_call(r), &names, &err);
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; rc == 0 && i < names.n && !failed; i++) {
        char id[ADAPTER_ID_CAP];
        rc = adapter_alias_get(a, names.at[i], http_call(r), id, &err);
        if (rc == 0 || rc == CLAAS_ERR_CORRUPT) { /* a damaged one does not hide the others */
            failed = app_push(list, alias_body(names.at[i], rc ? NULL : id));
            rc = 0;
        } else if (rc == CLAAS_ERR_NOT_FOUND) {
            rc = 0; /* removed since it was listed */
        }
    }
    failed |= app_put(o, "aliases", list);
    failed |= app_put(o, "next", names.more && names.n ? cJSON_CreateString(names.at[names.n - 1]) : cJSON_CreateNull());
    if (rc) {
        cJSON_Delete(o);
        http_fail(r, &err);
    } else {
        if (failed) {
            cJSON_Delete(o);
            o = NULL;
        }
        http_answer(r, 200, o);
    }
    adapter_names_clear(&names);
}

void alias_delete(void *ctx, struct http_request *r)
{
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    const char *alias = NULL;
    check_query_text(&c, http_query(r, "alias"), "alias", 1, &alias);
    struct adapters *a = app_refused(r, &c) ? NULL : app_adapters(ctx, r);
    if (!a) {
        return;
    }
    int rc = access_owns(http_caller(r), alias) ? adapter_alias_delete(a, alias, http_call(r), &err)
                                                : CLAAS_ERR_NOT_FOUND;
    if (rc && rc != CLAAS_ERR_NOT_FOUND) {
        http_fail(r, &err);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "deleted", cJSON_CreateBool(rc == 0))) {
        cJSON_Delete(o);
        o = NULL;
    }
    http_answer(r, 200, o);
}
