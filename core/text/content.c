/* SPDX-License-Identifier: MIT */
/* The text of a message's content, which clients send in several shapes. */
#include "config.h"

#include "text/template.h"

#include "base/err.h"
#include "base/json.h"

#include <stdlib.h>

static int content_print(const cJSON *value, struct buf *out, struct claas_error *err)
{
    char *printed = json_print(value);
    if (!printed) {
        return err_oom(err, "reading a message");
    }
    buf_adds(out, printed);
    free(printed);
    return 0;
}

/* The text of one part of a list, or null when it has none. */
static const char *part_text(const cJSON *part)
{
    if (cJSON_IsString(part)) {
        return part->valuestring;
    }
    const cJSON *text = cJSON_IsObject(part) ? json_get(part, "text") : NULL;
    const cJSON *content = cJSON_IsObject(part) ? json_get(part, "content") : NULL;
    return cJSON_IsString(text)      ? text->valuestring
           : cJSON_IsString(content) ? content->valuestring
                                     : NULL;
}

int text_content_coerce(const cJSON *content, struct buf *out, struct claas_error *err)
{
    int rc = 0;
    const char *text = cJSON_IsArray(content) ? NULL : part_text(content);
    if (cJSON_IsObject(content) && !cJSON_IsString(json_get(content, "text"))) {
        rc = content_print(content, out, err);
    } else if (text) {
        buf_adds(out, text);
    } else if (cJSON_IsArray(content)) {
        int parts = 0;
        for (const cJSON *it = content->child; it; it = it->next) {
            text = part_text(it);
            if (text) {
                buf_adds(out, parts++ ? "\n" : "");
                buf_adds(out, text);
            }
        }
    } else if (content && !cJSON_IsNull(content)) {
        rc = content_print(content, out, err);
    }
    return rc || !out->failed ? rc : err_oom(err, "reading a message");
}
