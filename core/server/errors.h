/* SPDX-License-Identifier: MIT */
/* How errors look over HTTP: {"detail": …, "error": {"code", "message", "param", "type"}}. `detail` is what existing
 * clients of the Python system read, `error` what clients of OpenAI's interface read. */
#ifndef SERVER_ERRORS_H
#define SERVER_ERRORS_H

#include <cjson/cJSON.h>
#include <claas/error.h>

/* `param` may be null or "". Null when out of memory. */
cJSON *error_body(int status, const char *code, const char *message, const char *param);

/* The same with a list of violations (taken over) as `detail`. */
cJSON *error_body_list(cJSON *detail, const char *message, const char *param);

/* "not_found_error" … for a status. */
const char *error_type(int status);

#endif
