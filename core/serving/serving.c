/* SPDX-License-Identifier: MIT */
/* The serving room: opened and closed, its list of models, its health. */
#include "config.h"

#include "serving/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_MAX = 1000 };

static char *copy(const char *s)
{
    return s == NULL ? mem_dup("", 0) : mem_dup(s, strlen(s));
}

static int locks_open(struct serving *s, struct claas_error *err)
{
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0 || pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) != 0 ||
        pthread_mutex_init(&s->mutex, NULL) != 0 || pthread_mutex_init(&s->end_mutex, NULL) != 0 ||
        pthread_cond_init(&s->changed, &attr) != 0 || pthread_cond_init(&s->work, &attr) != 0) {
        return err_oom(err, "the serving room");
    }
    (void)pthread_condattr_destroy(&attr);
    return 0;
}

int serving_open(const struct serving_options *options, struct serving **out, struct claas_error *err)
{
    struct claas_model model = { .size = sizeof model };
    const char *name = options->model_name == NULL ? "" : options->model_name;
    if (name[0] == '\0' && options->inference != NULL && host_model(options->inference, &model, NULL) == 0) {
        name = model.name;
    }
    struct serving *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return err_oom(err, "the serving room");
    }
    s->inference = options->inference;
    s->text = options->text != NULL ? options->text : options->inference;
    s->adapters = options->adapters;
    s->state = options->state;
    s->default_model = copy(options->default_model);
    s->model_name = copy(name);
    s->max_tokens = options->max_tokens;
    s->default_tokens = options->default_tokens;
    s->prompt_tokens = options->prompt_tokens;
    s->keep_loaded = options->keep_loaded == 0 ? 4 : options->keep_loaded;
    s->retry_ms = options->retry_ms == 0 ? 1000 : options->retry_ms;
    s->opened_ns = clock_real_ns();
    int rc = locks_open(s, err);
    if (rc == 0 && (s->default_model == NULL || s->model_name == NULL)) {
        rc = err_oom(err, "the serving room");
    }
    if (rc == 0) {
        rc = versions_open(s, err);
    }
    if (rc != 0) {
        free(s->default_model);
        free(s->model_name);
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void serving_close(struct serving *s)
{
    if (s == NULL) {
        return;
    }
    versions_close(s);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_cond_destroy(&s->work);
    (void)pthread_mutex_destroy(&s->mutex);
    (void)pthread_mutex_destroy(&s->end_mutex);
    spelling_free(atomic_load(&s->spelling));
    free(s->default_model);
    free(s->model_name);
    free(s);
}

const char *serving_model_name(const struct serving *s)
{
    return s->model_name;
}

int serving_token_text(struct serving *s, int32_t id, struct buf *out, struct claas_error *err)
{
    const struct spelling *known = atomic_load(&s->spelling);
    if (known != NULL && spelling_add(known, id, out) == 0) {
        return 0;
    }
    if (known != NULL) { /* it may be a thread of the plugin that asks, from which the plugin must not be called */
        return err_set(err, CLAAS_ERR_INVALID, NULL, "there is no token %d", (int)id);
    }
    int rc = serving_ready(s, err);
    return rc == 0 ? host_text_decode(s->text, &id, 1, CLAAS_SPECIAL, out, err) : rc;
}

/* ---- models ---------------------------------------------------------------------------------- */

static int model_add(struct serving *s, const char *name, const char *adapter, const struct claas_call *call,
                     struct serving_models *list, struct claas_error *err)
{
    struct adapter_entry *head = NULL;
    int rc = adapter_head(s->adapters, adapter, call, &head, err);
    if (rc == CLAAS_ERR_NOT_FOUND || rc == CLAAS_ERR_CORRUPT) {
        return 0; /* deleted meanwhile, an alias of nothing, or damaged: no model to ask */
    }
    if (rc != 0) {
        return rc;
    }
    struct serving_model *m = &list->at[list->n++];
    (void)snprintf(m->id, sizeof m->id, "%s", name);
    (void)snprintf(m->adapter, sizeof m->adapter, "%s", adapter);
    m->version = head->n;
    m->created_ns = head->time_ns;
    adapter_entry_unref(head);
    return 0;
}

static int models_fill(struct serving *s, const struct claas_call *call, struct serving_models *list,
                       struct claas_error *err)
{
    struct adapter_names names = { 0 };
    int rc = adapter_list(s->adapters, NULL, NULL, LIST_MAX, call, &names, err);
    for (size_t i = 0; rc == 0 && i < names.n && i < LIST_MAX; i++) {
        rc = model_add(s, names.at[i], names.at[i], call, list, err);
    }
    if (rc != 0) {
        adapter_names_clear(&names);
        return rc;
    }
    adapter_names_clear(&names);
    rc = adapter_alias_list(s->adapters, NULL, NULL, LIST_MAX, call, &names, err);
    for (size_t i = 0; rc == 0 && i < names.n && i < LIST_MAX; i++) {
        char target[ADAPTER_ID_CAP];
        struct claas_error gone = ERR_INIT;
        if (adapter_alias_get(s->adapters, names.at[i], call, target, &gone) == 0) {
            rc = model_add(s, names.at[i], target, call, list, err);
        }
    }
    adapter_names_clear(&names);
    return rc;
}

int serving_models(struct serving *s, const struct claas_call *call, struct serving_models *out,
                   struct claas_error *err)
{
    struct serving_models list = { .at = mem_array(2 * LIST_MAX + 1, sizeof *list.at) };
    if (list.at == NULL) {
        return err_oom(err, "the list of models");
    }
    int rc = 0;
    if (s->inference != NULL) {
        struct serving_model *base = &list.at[list.n++];
        (void)snprintf(base->id, sizeof base->id, "%s", s->model_name[0] == '\0' ? "default" : s->model_name);
        base->created_ns = s->opened_ns;
    }
    if (s->adapters != NULL) {
        rc = models_fill(s, call, &list, err);
    }
    if (rc != 0) {
        free(list.at);
        return rc;
    }
    *out = list;
    return 0;
}

/* ---- health ---------------------------------------------------------------------------------- */

static void behind(struct serving *s, struct serving_health *out)
{
    (void)pthread_mutex_lock(&s->mutex);
    for (const struct loaded *l = s->pool; l != NULL; l = l->next) {
        out->n_loaded += l->state == LOADED_THERE;
    }
    for (const struct slot *slot = s->slots; slot != NULL; slot = slot->next) {
        if (slot->failed == 0) {
            continue;
        }
        if (out->n_behind++ == 0 && out->state < CLAAS_DEGRADED) {
            out->state = CLAAS_DEGRADED;
            (void)snprintf(out->text, sizeof out->text, "%.80s@%llu is not loaded: %.120s", slot->id,
                           (unsigned long long)slot->failed, slot->why);
        }
    }
    (void)pthread_mutex_unlock(&s->mutex);
}

void serving_health(struct serving *s, struct serving_health *out)
{
    struct claas_status status = { .size = sizeof status, .state = CLAAS_READY };
    struct claas_error err = ERR_INIT;
    *out = (struct serving_health){ .state = CLAAS_READY };
    out->n_requests = atomic_load(&s->n_requests);
    out->n_answers = atomic_load(&s->n_answers);
    out->n_tokens = atomic_load(&s->n_tokens);
    if (s->inference == NULL) {
        out->state = CLAAS_DOWN;
        (void)snprintf(out->text, sizeof out->text, "no engine configured");
        return;
    }
    if (host_status(s->inference, &status, &err) != 0) {
        out->state = CLAAS_DOWN;
        (void)snprintf(out->text, sizeof out->text, "%.200s", err.message);
    } else if (status.state != CLAAS_READY) {
        out->state = status.state;
        (void)snprintf(out->text, sizeof out->text, "%.247s", status.text);
    }
    behind(s, out);
}
