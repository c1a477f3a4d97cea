/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "text/hindsight.h"

#include "base/err.h"
#include "base/json.h"
#include "text/template.h"
#include "text/visible.h"

#include <stdlib.h>
#include <string.h>

static cJSON *last_user_message(cJSON *messages)
{
    cJSON *last = NULL;
    for (cJSON *it = cJSON_IsArray(messages) ? messages->child : NULL; it; it = it->next) {
        const cJSON *role = cJSON_IsObject(it) ? json_get(it, "role") : NULL;
        if (cJSON_IsString(role) && strcmp(role->valuestring, "user") == 0) {
            last = it;
        }
    }
    return last;
}

/* Replaces the content by its text with the block behind it. */
static int message_append(cJSON *message, const char *feedback, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    const char *stripped = NULL;
    size_t n = 0;
    text_strip(feedback, strlen(feedback), &stripped, &n);
    int rc = text_content_coerce(json_get(message, "content"), &text, err);
    buf_adds(&text, HINDSIGHT_HEADER);
    buf_add(&text, stripped, n);
    cJSON *content = rc || text.failed ? NULL : cJSON_CreateString(buf_str(&text));
    buf_clear(&text);
    if (rc) {
        return rc;
    }
    if (!content) {
        return err_oom(err, "making the teacher's prompt");
    }
    cJSON_DeleteItemFromObjectCaseSensitive(message, "content");
    if (!cJSON_AddItemToObject(message, "content", content)) {
        cJSON_Delete(content);
        return err_oom(err, "making the teacher's prompt");
    }
    return 0;
}

int hindsight_messages(const cJSON *messages, const char *feedback, cJSON **out,
                       struct claas_error *err)
{
    cJSON *copy = cJSON_Duplicate(messages, 1);
    if (!copy) {
        return err_oom(err, "making the teacher's prompt");
    }
    cJSON *last = last_user_message(copy);
    int rc = 0;
    if (!last) {
        rc = err_set(err, CLAAS_ERR_INVALID, "messages",
                     "cannot show feedback to the teacher: the conversation has no user message");
    } else if (feedback[0] != '\0') {
        rc = message_append(last, feedback, err);
    }
    if (rc) {
        cJSON_Delete(copy);
        return rc;
    }
    *out = copy;
    return 0;
}
