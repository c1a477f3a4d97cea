/* SPDX-License-Identifier: MIT */
/* The answer to feedback, as clients know it: it is kept with the job, so that it is told again to whoever asks again. */
#include "config.h"

#include "feedback/internal.h"

#include "base/sha256.h"

#include <stdio.h>

/* Takes v, which may be null, over. */
static int put(cJSON *o, const char *name, cJSON *v)
{
    if (v == NULL || !cJSON_AddItemToObject(o, name, v)) {
        cJSON_Delete(v);
        return 1;
    }
    return 0;
}

static cJSON *digest_json(const struct claas_digest *d)
{
    static const struct claas_digest none;
    char hex[SHA256_HEX];
    if (sha256_equal(d, &none)) {
        return cJSON_CreateNull();
    }
    sha256_hex(d, hex);
    return cJSON_CreateString(hex);
}

static cJSON *paused_json(const struct feedback_result *r)
{
    cJSON *o = cJSON_CreateObject();
    if (put(o, "slept", cJSON_CreateBool(r->slept)) || put(o, "woke", cJSON_CreateBool(r->woke))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *distill_json(struct feedback_result *r)
{
    cJSON *o = cJSON_CreateObject();
    cJSON *metadata = r->metadata != NULL ? r->metadata : cJSON_CreateObject();
    r->metadata = NULL;
    int failed = put(o, "lora_id", cJSON_CreateString(r->lora_id));
    failed |= put(o, "metadata", metadata);
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

cJSON *feedback_result_json(struct feedback_result *r)
{
    char record[96] = "";
    cJSON *o = cJSON_CreateObject();
    if (r->recorded) {
        (void)snprintf(record, sizeof record, "state.db/feedback/%s", r->request_id);
    }
    int failed = put(o, "status", cJSON_CreateString("ok"));
    failed |= put(o, "request_id", cJSON_CreateString(r->request_id));
    failed |= put(o, "lora_id", cJSON_CreateString(r->lora_id));
    failed |= put(o, "distill_result", distill_json(r)) | put(o, "vllm", paused_json(r));
    failed |= put(o, "feedback_log_path", cJSON_CreateString(record));
    failed |= put(o, "timing_ms", feedback_timing_json(&r->timing));
    failed |= put(o, "batch_size", cJSON_CreateNumber((double)r->batch_size));
    failed |= put(o, "version", cJSON_CreateNumber((double)r->version_to));
    failed |= put(o, "version_from", cJSON_CreateNumber((double)r->version_from));
    failed |= put(o, "digest", digest_json(&r->serve));
    failed |= put(o, "serves", cJSON_CreateBool(r->serves));
    if (r->warnings != NULL && r->warnings->child != NULL) {
        failed |= put(o, "warnings", r->warnings);
        r->warnings = NULL;
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}
