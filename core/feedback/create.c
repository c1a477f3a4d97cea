/* SPDX-License-Identifier: MIT */
/* Making an adapter: the engine writes its first version, which is committed and loaded. */
#include "config.h"

#include "feedback/internal.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5 };

static int base_check(struct feedback *f, const char *base, struct claas_error *err)
{
    struct claas_model model = { .size = sizeof model };
    const char *plugin = host_model(f->engine, &model, NULL) == 0 ? model.name : "";
    if (base == NULL || base[0] == '\0' || strcmp(base, f->model_name) == 0 ||
        strcmp(base, plugin) == 0) {
        return 0;
    }
    struct buf allowed = BUF_INIT;
    buf_adds(&allowed, f->model_name);
    for (const char *const *at = f->allowed_bases; at != NULL && *at != NULL; at++) {
        if (strcmp(base, *at) == 0) {
            buf_clear(&allowed);
            return 0;
        }
        buf_addf(&allowed, "%s%s", allowed.len > 0 ? ", " : "", *at);
    }
    int rc = err_set(err, CLAAS_ERR_FORBIDDEN, "base_model",
                     "cannot make an adapter of base model '%.120s': allowed are %s", base,
                     buf_str(&allowed));
    buf_clear(&allowed);
    return rc;
}

static int key_make(const char *job, const char *id, const char *spec, struct claas_digest *out,
                    struct claas_error *err)
{
    struct buf text = BUF_INIT;
    buf_addf(&text, "%s %s %s", job, id, spec);
    int rc = text.failed ? err_oom(err, "an adapter") : sha256_of(buf_str(&text), text.len, out, err);
    buf_clear(&text);
    return rc;
}

static int commit(struct feedback *f, const struct feedback_create *r, const char *id,
                  const char *job, const char *spec, struct adapter_out *out,
                  struct adapter_entry **entry, struct claas_error *err)
{
    int rc = CLAAS_ERR_CONFLICT;
    for (int i = 0; i < ROUNDS && rc == CLAAS_ERR_CONFLICT; i++) {
        struct adapter_entry *end = NULL;
        rc = adapter_log_end(f->adapters, id, r->call, &end, err);
        if (rc == 0) {
            const struct adapter_commit c = { .kind = ADAPTER_CREATE,
                                              .job = job,
                                              .expected = end == NULL ? 0 : end->n,
                                              .engine = f->engine_name,
                                              .base_name = f->model_name,
                                              .settings_json = spec };
            rc = adapter_commit(f->adapters, id, &c, out, r->call, entry, err);
        }
        adapter_entry_unref(end);
    }
    return rc;
}

static int make(struct feedback *f, const struct feedback_create *r, const char *id,
                const struct option_values *values, struct adapter_entry **entry,
                struct claas_error *err)
{
    char job[33];
    struct claas_model model = { .size = sizeof model };
    struct adapter_out *out = NULL;
    cJSON *object = option_values_json(values);
    char *spec = object == NULL ? NULL : json_print(object);
    cJSON_Delete(object);
    if (spec == NULL || rng_hex(job, 32) != 0) {
        free(spec);
        return err_oom(err, "an adapter");
    }
    struct claas_create c = { .size = sizeof c, .spec = values->values };
    int rc = key_make(job, id, spec, &c.key, err);
    if (rc) {
        free(spec);
        return rc;
    }
    for (int i = 0; i < 8; i++) {
        c.seed |= (uint64_t)c.key.b[i] << (8 * i);
    }
    const char *base = host_model(f->engine, &model, NULL) == 0 ? model.base : "";
    const struct adapter_out_params params = { .id = id, .base = base };
    rc = adapter_out_new(f->adapters, &params, &out, err);
    if (rc == 0) {
        rc = host_engine_create(f->engine, &c, adapter_out_abi(out), r->call, err);
    }
    if (rc == 0) {
        rc = commit(f, r, id, job, spec, out, entry, err);
    }
    adapter_out_free(out);
    free(spec);
    return rc;
}

static int create_in_turn(struct feedback *f, const struct feedback_create *r, const char *id,
                          const struct option_values *values, struct feedback_created *out,
                          struct claas_error *err)
{
    struct turn turn;
    struct adapter_entry *entry = NULL;
    int rc = turn_take(f, &turn, id, r->call, err);
    if (rc != 0) {
        return rc;
    }
    rc = make(f, r, id, values, &entry, err);
    if (rc == 0) {
        struct claas_error late = ERR_INIT;
        *out = (struct feedback_created){ .version = entry->n, .serve = entry->serve };
        (void)snprintf(out->lora_id, sizeof out->lora_id, "%s", id);
        out->serves = f->serving != NULL && serving_follow(f->serving, id, r->call, &late) == 0;
    }
    adapter_entry_unref(entry);
    turn_leave(f, &turn);
    return rc;
}

int feedback_create(struct feedback *f, const struct feedback_create *r,
                    struct feedback_created *out, struct claas_error *err)
{
    char id[ADAPTER_ID_CAP];
    const struct host_engine_info *info = NULL;
    struct option_values values = { 0 };
    if (f->engine == NULL || f->adapters == NULL) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "engine",
                       "cannot make an adapter: no %s configured",
                       f->engine == NULL ? "engine" : "storage");
    }
    int rc = adapter_id_strip(r->lora_id == NULL ? "" : r->lora_id, id, err);
    if (rc == 0 && strcmp(id, f->model_name) == 0) { /* it could not be asked any more */
        rc = err_set(err, CLAAS_ERR_INVALID, "lora_id",
                     "'%s' is the name of the base model and cannot be an adapter's", id);
    }
    if (rc == 0) {
        rc = base_check(f, r->base_model, err);
    }
    if (rc == 0) {
        rc = host_engine_info(f->engine, &info, err);
    }
    if (rc == 0) {
        rc = options_from(info->creation, r->spec, NULL, NULL, NULL, &values, err);
    }
    if (rc == 0) {
        rc = create_in_turn(f, r, id, &values, out, err);
    }
    option_values_clear(&values);
    return rc;
}
