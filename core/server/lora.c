/* SPDX-License-Identifier: MIT */
/* GET and DELETE /v1/lora, GET /v1/lora/export: the adapter routes that existing clients know. */
#include "config.h"

#include "server/app.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LORA_PAGE = 1000, LORA_ALL = 10000 };

/* The store's order: keys spell '/' as '~'. Pages of ids and of aliases are merged by it. */
static int lora_store_order(const void *a, const void *b)
{
    const unsigned char *x = *(const unsigned char *const *)a;
    const unsigned char *y = *(const unsigned char *const *)b;
    while (*x && *x == *y) {
        x++;
        y++;
    }
    int cx = *x == '/' ? '~' : *x;
    int cy = *y == '/' ? '~' : *y;
    return cx - cy;
}

static int lora_plain_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct lora_page {
    char **at; /* borrowed from the two */
    size_t n;
    int more;
    struct adapter_names ids, aliases;
};

static void lora_page_clear(struct lora_page *p)
{
    free(p->at);
    adapter_names_clear(&p->ids);
    adapter_names_clear(&p->aliases);
    *p = (struct lora_page){ 0 };
}

/* One page of ids and aliases together, in the store's order. */
static int lora_page_get(struct adapters *a, const char *prefix, const char *after, uint32_t limit,
                         const struct claas_call *call, struct lora_page *p, struct claas_error *err)
{
    int rc = adapter_list(a, prefix, after, limit, call, &p->ids, err);
    if (rc == 0) {
        rc = adapter_alias_list(a, prefix, after, limit, call, &p->aliases, err);
    }
    if (rc == 0 && !(p->at = mem_array(p->ids.n + p->aliases.n, sizeof *p->at))) {
        rc = err_oom(err, "listing adapters");
    }
    if (rc) {
        lora_page_clear(p);
        return rc;
    }
    for (size_t i = 0; i < p->ids.n; i++) {
        p->at[p->n++] = p->ids.at[i];
    }
    for (size_t i = 0; i < p->aliases.n; i++) {
        p->at[p->n++] = p->aliases.at[i];
    }
    qsort(p->at, p->n, sizeof *p->at, lora_store_order);
    p->more = p->ids.more || p->aliases.more || p->n > limit;
    p->n = p->n > limit ? limit : p->n;
    return 0;
}

static void lora_answer(struct http_request *r, cJSON *ids, const char *next)
{
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "loras", ids);
    if (next) {
        failed |= app_put(o, "next", cJSON_CreateString(next));
    }
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    http_answer(r, 200, o);
}

/* Without limit and after: everything (up to a bound), sorted as text, as existing clients expect it. */
static int lora_all(struct adapters *a, const char *prefix, const struct claas_call *call, cJSON **out, char **out_next,
                    struct claas_error *err)
{
    struct lora_page p = { 0 };
    size_t n = 0;
    int more = 1;
    int rc = 0;
    char **all = mem_array(LORA_ALL, sizeof *all);
    if (!all) {
        return err_oom(err, "listing adapters");
    }
    while (rc == 0 && more && n + LORA_PAGE <= LORA_ALL) {
        rc = lora_page_get(a, prefix, n ? all[n - 1] : NULL, LORA_PAGE, call, &p, err);
        for (size_t i = 0; rc == 0 && i < p.n; i++) {
            all[n] = strdup(p.at[i]);
            if (!all[n++]) {
                n--;
                rc = err_oom(err, "listing adapters");
            }
        }
        more = p.more && p.n > 0;
        lora_page_clear(&p);
    }
    if (rc == 0 && more && n > 0 && !(*out_next = strdup(all[n - 1]))) {
        rc = err_oom(err, "listing adapters");
    }
    if (rc == 0) {
        qsort(all, n, sizeof *all, lora_plain_order);
        *out = cJSON_CreateStringArray((const char *const *)all, (int)n);
    }
    for (size_t i = 0; i < n; i++) {
        free(all[i]);
    }
    free(all);
    return rc;
}

void lora_list(void *ctx, struct http_request *r)
{
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    const char *prefix = NULL;
    const char *after = NULL;
    int64_t limit = 0;
    check_query_text(&c, http_query(r, "prefix"), "prefix", 0, &prefix);
    check_query_text(&c, http_query(r, "after"), "after", 0, &after);
    check_query_int(&c, http_query(r, "limit"), "limit", 1, LORA_PAGE, &limit);
    struct adapters *a = app_refused(r, &c) ? NULL : app_adapters(ctx, r);
    if (!a) {
        return;
    }
    cJSON *ids = NULL;
    char *next = NULL;
    struct lora_page p = { 0 };
    int rc = 0;
    int none = 0;
    prefix = app_prefix(r, prefix, &none);
    if (none) {
        ids = cJSON_CreateArray();
    } else if (limit == 0 && !after) {
        rc = lora_all(a, prefix, http_call(r), &ids, &next, &err);
    } else {
        rc = lora_page_get(a, prefix, after, limit ? (uint32_t)limit : LORA_PAGE, http_call(r), &p, &err);
        if (rc == 0) {
            ids = cJSON_CreateStringArray((const char *const *)p.at, (int)p.n);
        }
    }
    if (rc) {
        http_fail(r, &err);
    } else {
        lora_answer(r, ids, next ? next : p.more && p.n ? p.at[p.n - 1] : NULL);
    }
    lora_page_clear(&p);
    free(next);
}

/* The id behind a query parameter: 1, or it has been answered. */
static int lora_query_id(struct http_request *r, const char *name, const char **out)
{
    struct check c = CHECK_INIT("query");
    check_query_text(&c, http_query(r, name), name, 1, out);
    return !app_refused(r, &c);
}

/* {"deleted": false} for what is not there, never 404; an id that cannot be one is refused. */
void lora_delete(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct claas_error err = ERR_INIT;
    const char *id = NULL;
    struct adapters *a = lora_query_id(r, "lora_id", &id) ? app_adapters(app, r) : NULL;
    char stripped[ADAPTER_ID_CAP];
    if (!a) {
        return;
    }
    int rc = adapter_id_strip(id, stripped, &err);
    if (rc == 0) {
        rc = access_owns(http_caller(r), stripped)
                 ? adapter_delete(a, id, http_request_id(r), http_call(r), &err)
                 : CLAAS_ERR_NOT_FOUND;
    }
    if (rc && rc != CLAAS_ERR_NOT_FOUND) {
        http_fail(r, &err);
        return;
    }
    struct serving *s = atomic_load(&app->serving);
    if (rc == 0 && s) {
        serving_forget(s, stripped);
    }
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "deleted", cJSON_CreateBool(rc == 0))) {
        cJSON_Delete(o);
        o = NULL;
    }
    http_answer(r, 200, o);
}

void lora_export(void *ctx, struct http_request *r)
{
    struct claas_error err = ERR_INIT;
    const char *id = NULL;
    struct adapters *a = lora_query_id(r, "lora_id", &id) ? app_adapters(ctx, r) : NULL;
    struct adapter_name name;
    struct adapter_version *v = NULL;
    int fd = -1;
    uint64_t bytes = 0;
    if (!a) {
        return;
    }
    int rc = app_name(a, r, "lora_id", id, &name, &err);
    if (rc == 0) {
        rc = adapter_version_get(a, name.id, name.n, http_call(r), &v, &err);
    }
    if (rc == 0) {
        rc = adapter_export(a, v, http_call(r), &fd, &bytes, &err);
    }
    adapter_version_unref(v);
    if (rc) {
        http_fail(r, &err);
        return;
    }
    char file[420];
    char header[480];
    adapter_export_name(name.id, file, sizeof file); /* an id has no character that a header must not have */
    (void)snprintf(header, sizeof header, "attachment; filename=\"%s\"", file);
    http_header(r, "Content-Disposition", header);
    http_answer_file(r, "application/zip", fd, bytes);
}
