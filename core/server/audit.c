/* SPDX-License-Identifier: MIT */
/* GET /v1/audit: whose feedback made which version, and what was refused and why. */
#include "config.h"

#include "server/app.h"

#include "base/err.h"

static cJSON *audit_row(const struct state_audit *a)
{
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "time", app_time(a->time_ns)) | app_put(o, "action", cJSON_CreateString(a->action));
    failed |= app_put(o, "owner", cJSON_CreateString(a->owner));
    failed |= app_put(o, "lora_id", a->adapter[0] ? cJSON_CreateString(a->adapter) : cJSON_CreateNull());
    failed |= app_put(o, "job", a->job[0] ? cJSON_CreateString(a->job) : cJSON_CreateNull());
    failed |= app_put(o, "version", a->version ? app_number(a->version) : cJSON_CreateNull());
    failed |= app_put(o, "code", a->code ? cJSON_CreateString(err_name(a->code)) : cJSON_CreateNull());
    failed |= app_put(o, "reason", a->reason ? cJSON_CreateString(a->reason) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

void audit_list(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    struct state_audits page = { 0 };
    int64_t limit = 100;
    int64_t before = 0;
    check_query_int(&c, http_query(r, "limit"), "limit", 1, 1000, &limit);
    check_query_int(&c, http_query(r, "before"), "before", 1, 1LL << 53, &before);
    if (app_refused(r, &c)) {
        return;
    }
    if (state_audit_list(app->state, NULL, http_query(r, "adapter"), (uint64_t)before, (uint32_t)limit, &page, &err)) {
        http_fail(r, &err);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < page.n && !failed; i++) {
        failed = app_push(list, audit_row(page.at[i]));
    }
    failed |= app_put(o, "audit", list) | app_put(o, "next", page.next ? app_number(page.next) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    state_audits_clear(&page);
    http_answer(r, 200, o);
}
