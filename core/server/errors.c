/* SPDX-License-Identifier: MIT */
/* Error bodies. */
#include "config.h"

#include "server/errors.h"

#include "base/err.h"

const char *error_type(int status)
{
    static const struct { int status; const char *type; } rows[] = {
        { 401, "authentication_error" }, { 403, "permission_error" }, { 404, "not_found_error" },
        { 409, "conflict_error" },       { 429, "rate_limit_error" }, { 503, "service_unavailable_error" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].status == status) {
            return rows[i].type;
        }
    }
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static int error_add(cJSON *body, int status, const char *code, const char *message, const char *param)
{
    cJSON *e = cJSON_AddObjectToObject(body, "error");
    if (!e || !cJSON_AddStringToObject(e, "code", code) || !cJSON_AddStringToObject(e, "message", message) ||
        !cJSON_AddStringToObject(e, "type", error_type(status))) {
        return -1;
    }
    cJSON *p = param && param[0] ? cJSON_AddStringToObject(e, "param", param) : cJSON_AddNullToObject(e, "param");
    return p ? 0 : -1;
}

cJSON *error_body(int status, const char *code, const char *message, const char *param)
{
    cJSON *body = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(body, "detail", message) || error_add(body, status, code, message, param)) {
        cJSON_Delete(body);
        return NULL;
    }
    return body;
}

cJSON *error_body_list(cJSON *detail, const char *message, const char *param)
{
    cJSON *body = cJSON_CreateObject();
    if (!cJSON_AddItemToObject(body, "detail", detail)) {
        cJSON_Delete(detail);
        cJSON_Delete(body);
        return NULL;
    }
    if (error_add(body, 422, err_name(CLAAS_ERR_INVALID), message, param)) {
        cJSON_Delete(body);
        return NULL;
    }
    return body;
}
