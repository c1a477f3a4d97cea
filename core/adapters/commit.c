/* SPDX-License-Identifier: MIT */
/* Changes: contents into the store, then one log entry. Commit, rollback, deletion. */
#include "config.h"

#include "internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "out.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PUT_THREADS = 4 };

/* ---- contents ---- */

struct putting {
    struct adapter_out *o;
    const struct claas_call *call;
    atomic_size_t next;
    atomic_int failed;
};

struct putter {
    struct putting *all;
    pthread_t thread;
    int rc;
    struct claas_error err;
};

static int put_file(struct adapter_out *o, const struct content_file *f,
                    const struct claas_call *call, struct claas_error *err)
{
    if (f->path) {
        return store_put_blob(o->a, &f->sha256, f->path, f->bytes, call, err);
    }
    struct claas_file file = { sizeof file, f->roles, f->bytes, f->name, f->sha256 };
    return store_keep_blob(o->a, &file, 0, call, err);
}

static void *putter_run(void *arg)
{
    struct putter *p = arg;
    const struct content *c = p->all->o->content;
    for (;;) {
        size_t i = atomic_fetch_add(&p->all->next, 1);
        if (i >= c->n_files || atomic_load(&p->all->failed)) {
            return NULL;
        }
        p->rc = put_file(p->all->o, c->files[i], p->all->call, &p->err);
        if (p->rc) {
            atomic_store(&p->all->failed, 1);
            return NULL;
        }
    }
}

int adapter_out_put(struct adapter_out *o, const struct claas_call *call, struct claas_error *err)
{
    if (!o->sealed) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot store '%s': it is not sealed", o->id);
    }
    struct putting all = { .o = o, .call = call };
    struct putter putters[PUT_THREADS];
    sigset_t signals;
    sigset_t before;
    int64_t began = clock_mono_ns();
    int started = 1; /* one of them is this thread */
    int wanted = o->content->n_files < PUT_THREADS ? (int)o->content->n_files : PUT_THREADS;
    for (int i = 0; i < wanted; i++) {
        putters[i] = (struct putter){ .all = &all, .err = ERR_INIT };
    }
    (void)sigfillset(&signals);
    (void)pthread_sigmask(SIG_BLOCK, &signals, &before);
    while (started < wanted &&
           pthread_create(&putters[started].thread, NULL, putter_run, &putters[started]) == 0) {
        started++; /* fewer are as good, only slower */
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)putter_run(&putters[0]);
    for (int i = 1; i < started; i++) {
        (void)pthread_join(putters[i].thread, NULL);
    }
    for (int i = 0; i < started; i++) {
        if (putters[i].rc) {
            if (err) {
                *err = putters[i].err;
            }
            return err_prefix(err, "cannot store the contents of '%s'", o->id), putters[i].rc;
        }
    }
    o->put_ns = began;
    return 0;
}

/* ---- metrics as JSON ---- */

static int metric_set(cJSON *o, const struct adapter_metric *m)
{
    cJSON_DeleteItemFromObjectCaseSensitive(o, m->name);
    return json_put(o, m->name, cJSON_CreateNumber(m->value));
}

/* One object for each step; reported in order, step by step. */
static int steps_put(cJSON *all, const struct adapter_out *o)
{
    cJSON *steps = cJSON_CreateArray();
    cJSON *at = NULL;
    int failed = 0;
    for (size_t i = 0; i < o->n_metrics && !failed; i++) {
        const struct adapter_metric *m = &o->metrics[i];
        if (!at || m->step != o->metrics[i - 1].step) {
            at = cJSON_CreateObject();
            failed = json_push(steps, at) || json_put(at, "step", cJSON_CreateNumber(m->step));
        }
        failed = failed || metric_set(at, m);
    }
    cJSON_DeleteItemFromObjectCaseSensitive(all, "steps");
    return json_put(all, "steps", steps) | failed;
}

/* The last value of each name on top; "steps" when there are several. Null when out of memory. */
static cJSON *metrics_json(const struct adapter_out *o)
{
    cJSON *all = cJSON_CreateObject();
    uint32_t last = 0;
    uint32_t first = UINT32_MAX;
    int failed = 0;
    for (size_t i = 0; i < o->n_metrics; i++) {
        const struct adapter_metric *m = &o->metrics[i];
        failed |= metric_set(all, m);
        last = m->step > last ? m->step : last;
        first = m->step < first ? m->step : first;
    }
    if (o->n_metrics > 0 && first != last) {
        failed |= steps_put(all, o);
    }
    if (failed) {
        cJSON_Delete(all);
        return NULL;
    }
    return all;
}

/* ---- commit ---- */

static int job_check(const char *job, struct claas_error *err)
{
    if (name_word_ok(job, ADAPTER_JOB_CAP)) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_INVALID, "job",
                   "the name of a job is 1 to %d printable characters without blanks",
                   ADAPTER_JOB_CAP - 1);
}

static int marker_set(struct adapters *a, const char *id, const struct claas_call *call,
                      struct claas_error *err)
{
    char key[KEY_CAP];
    struct claas_error local = ERR_INIT;
    key_of(key, "adapters/", id, "");
    int rc = store_write_id(a, key, id, CLAAS_IF_ABSENT, call, &local);
    if (rc == CLAAS_ERR_CONFLICT) {
        return 0;
    }
    if (rc && err) {
        *err = local;
    }
    (void)pthread_mutex_lock(&a->lock);
    a->flat_read_ns = 0; /* the list of flattened names lacks this one */
    (void)pthread_mutex_unlock(&a->lock);
    return rc;
}

/* 0 with *end (may be null) if the log ends where the commit expects; *done set if the job has its
 * entry already. */
static int commit_place(struct adapters *a, const char *id, const struct adapter_commit *c,
                        const struct claas_call *call, struct adapter_entry **end,
                        struct adapter_entry **done, struct claas_error *err)
{
    int rc = adapter_log_end(a, id, call, end, err);
    if (rc) {
        return rc;
    }
    uint64_t n = *end ? (*end)->n : 0;
    if (n > c->expected) {
        rc = adapter_log_find(a, id, c->expected, c->job, call, done, NULL);
        if (rc == CLAAS_ERR_NOT_FOUND) {
            rc = err_set(err, CLAAS_ERR_CONFLICT, "version",
                         "cannot append to version %" PRIu64 " of '%s': it is at version %" PRIu64,
                         c->expected, id, n);
        } else if (rc) {
            rc = err_set(err, rc, NULL, "cannot follow the log of '%s'", id);
        }
    } else if (n < c->expected) {
        rc = err_set(err, CLAAS_ERR_INVALID, "version",
                     "'%s' has no version %" PRIu64 " to append to", id, c->expected);
    } else if ((c->kind == ADAPTER_STEP || c->kind == ADAPTER_UNDO) &&
               (!*end || (*end)->kind == ADAPTER_DELETE)) {
        rc = err_set(err, CLAAS_ERR_CONFLICT, "lora_id",
                     "cannot append to '%s': there is no such adapter", id);
    }
    return rc;
}

static int commit_check(const struct adapter_commit *c, const struct adapter_out *o,
                        cJSON **settings, struct claas_error *err)
{
    if (c->kind != ADAPTER_CREATE && c->kind != ADAPTER_STEP && c->kind != ADAPTER_IMPORT &&
        c->kind != ADAPTER_UNDO) {
        return err_set(err, CLAAS_ERR_INVALID, "kind",
                       "an entry of kind '%s' has no contents of its own",
                       adapter_kind_name(c->kind));
    }
    if (!o->sealed) {
        return err_set(err, CLAAS_ERR_INVALID, NULL,
                       "cannot commit '%s': its contents are not sealed", o->id);
    }
    int rc = job_check(c->job, err);
    if (rc == 0 && c->settings_json) {
        rc = json_parse(c->settings_json, strlen(c->settings_json), "the settings", settings, err);
        if (rc == 0 && !cJSON_IsObject(*settings)) {
            rc = err_set(err, CLAAS_ERR_INVALID, "settings", "the settings are no JSON object");
        }
    }
    return rc;
}

static int commit_append(struct adapters *a, const char *id, const struct adapter_commit *c,
                         struct adapter_out *o, const struct adapter_entry *end,
                         const cJSON *settings, const struct claas_call *call,
                         struct adapter_entry **out, struct claas_error *err)
{
    size_t n = o->content->n_files;
    struct claas_file *facts = mem_array(n, sizeof *facts);
    const struct claas_file **list = mem_array(n, sizeof *list);
    cJSON *metrics = metrics_json(o);
    int rc = facts && list && metrics ? 0 : err_oom(err, "committing");
    if (rc == 0) {
        out_list(o, facts, list);
        struct entry_draft d = {
            .id = id,
            .n = c->expected + 1,
            .kind = c->kind,
            .job = c->job,
            .engine = c->engine,
            .format = o->format,
            .base = o->base,
            .base_name = c->base_name,
            .files = list,
            .n_files = (uint32_t)n,
            .claims = (const char *const *)o->claims,
            .n_claims = (uint32_t)o->n_claims,
            .settings = settings,
            .metrics = metrics,
            .previous = end ? &end->sha256 : NULL,
        };
        rc = log_append(a, &d, call, out, err);
    }
    cJSON_Delete(metrics);
    free(facts);
    free(list);
    return rc;
}

int adapter_commit(struct adapters *a, const char *id, const struct adapter_commit *c,
                   struct adapter_out *o, const struct claas_call *call, struct adapter_entry **out,
                   struct claas_error *err)
{
    cJSON *settings = NULL;
    struct adapter_entry *end = NULL;
    struct adapter_entry *done = NULL;
    int rc = adapter_id_check(id, err);
    if (rc == 0) {
        rc = commit_check(c, o, &settings, err);
    }
    if (rc == 0) {
        rc = commit_place(a, id, c, call, &end, &done, err);
    }
    if (rc == 0 && !done &&
        (o->put_ns == 0 || clock_mono_ns() - o->put_ns > a->options.grace_ns / 2)) {
        rc = adapter_out_put(o, call, err);
    }
    if (rc == 0 && !done && (!end || end->kind == ADAPTER_DELETE)) {
        /* before the entry: a marker without a log is not shown, a log without a marker could not
         * be found */
        rc = marker_set(a, id, call, err);
    }
    if (rc == 0) {
        rc = done ? 0 : commit_append(a, id, c, o, end, settings, call, &done, err);
    }
    cJSON_Delete(settings);
    adapter_entry_unref(end);
    if (rc) {
        adapter_entry_unref(done);
        return rc;
    }
    *out = done;
    return 0;
}

/* ---- rollback ---- */

/* Which of the target's files can be had again; those are made young. */
static int restore_files(struct adapters *a, const struct adapter_entry *target,
                         const struct claas_call *call, const struct claas_file **list,
                         uint32_t *out_n, struct claas_error *err)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < target->n_files; i++) {
        const struct claas_file *f = target->files[i];
        struct claas_error local = ERR_INIT;
        int rc = store_keep_blob(a, f, 0, call, &local);
        if (rc == CLAAS_ERR_NOT_FOUND && (f->roles & CLAAS_SERVE)) {
            return err_set(err, rc, "version",
                           "cannot go back to '%s@%" PRIu64 "': its contents are no longer kept",
                           target->id, target->n);
        }
        if (rc && rc != CLAAS_ERR_NOT_FOUND) {
            if (err) {
                *err = local;
            }
            return rc;
        }
        if (rc == 0) {
            list[n++] = f;
        }
    }
    *out_n = n;
    return 0;
}

/* Contents that are damaged never become the newest. Whether they are still kept is restore_files'
 * question. */
static int restore_verify(struct adapters *a, const struct adapter_entry *target,
                          const struct claas_call *call, struct claas_error *err)
{
    struct adapter_version *v = NULL;
    int rc = adapter_version_get(a, target->id, target->n, call, &v, err);
    if (rc) {
        return rc;
    }
    const struct claas_version *version = adapter_version_abi(v);
    for (uint32_t i = 0; rc == 0 && i < version->n_files; i++) {
        const char *path = NULL;
        struct claas_error local = ERR_INIT;
        rc = version->path(version, version->files[i]->name, &path, &local);
        if (rc == CLAAS_ERR_NOT_FOUND) {
            rc = 0;
        } else if (rc && err) {
            *err = local;
        }
    }
    adapter_version_unref(v);
    return rc;
}

/* A name for an operation that was given none: it too must know its own entry again. */
static int job_or_fresh(const char *job, char out[ADAPTER_JOB_CAP], struct claas_error *err)
{
    if (job && job[0] != '\0') {
        int rc = job_check(job, err);
        if (rc == 0) {
            memcpy(out, job, strlen(job) + 1);
        }
        return rc;
    }
    memcpy(out, "op-", 3);
    return rng_hex(out + 3, 24) ? err_set(err, CLAAS_ERR_INTERNAL, "job", "no random numbers") : 0;
}

static int restore_append(struct adapters *a, const struct adapter_entry *target, const char *job,
                          const struct adapter_entry *head, const struct claas_call *call,
                          struct adapter_entry **out, struct claas_error *err)
{
    const struct claas_file **list = mem_array(target->n_files, sizeof *list);
    cJSON *settings = NULL;
    uint32_t n_files = 0;
    int rc = list ? 0 : err_oom(err, "rolling back");
    if (rc == 0) {
        rc = restore_files(a, target, call, list, &n_files, err);
    }
    if (rc == 0) {
        rc = json_parse(target->settings_json, strlen(target->settings_json), "settings", &settings,
                        err);
    }
    if (rc == 0) {
        struct entry_draft d = {
            .id = target->id,
            .n = head->n + 1,
            .kind = ADAPTER_RESTORE,
            .job = job,
            .engine = target->engine,
            .format = target->format,
            .base = target->base,
            .base_name = target->base_name,
            .of = target->n,
            .files = list,
            .n_files = n_files,
            .claims = target->claims,
            .n_claims = target->n_claims,
            .settings = settings,
            .previous = &head->sha256,
        };
        rc = log_append(a, &d, call, out, err);
    }
    cJSON_Delete(settings);
    free(list);
    return rc;
}

int adapter_rollback(struct adapters *a, const char *id, uint64_t n, const char *job,
                     const struct claas_call *call, struct adapter_entry **out,
                     struct claas_error *err)
{
    char name[ADAPTER_JOB_CAP];
    struct adapter_entry *target = NULL;
    int rc = job_or_fresh(job, name, err);
    for (int round = 0; rc == 0; round++) {
        struct adapter_entry *head = NULL;
        rc = adapter_head(a, id, call, &head, err);
        if (rc == 0 && !target) {
            rc = adapter_entry_get(a, id, n, call, &target, err);
            if (rc == 0 && target->n_files == 0) {
                rc = err_set(err, CLAAS_ERR_NOT_FOUND, "version",
                             "'%s@%" PRIu64 "' is a deletion and no version", id, n);
            }
            if (rc == 0) {
                rc = restore_verify(a, target, call, err);
            }
        }
        if (rc == 0) {
            rc = restore_append(a, target, name, head, call, out, err);
        }
        adapter_entry_unref(head);
        if (rc != CLAAS_ERR_CONFLICT || round + 1 == COMMIT_ROUNDS) {
            break;
        }
        rc = 0; /* somebody was first: the same files, one number on */
    }
    adapter_entry_unref(target);
    return rc;
}

/* ---- deletion ---- */

/* Aliases that point at id. */
static int delete_aliases(struct adapters *a, const char *id, const struct claas_call *call,
                          struct claas_error *err)
{
    char after[ADAPTER_ID_CAP] = "";
    int rc = 0;
    int more = 1;
    while (rc == 0 && more) {
        struct adapter_names page = { 0 };
        rc = adapter_alias_list(a, "", after, PAGE_MAX, call, &page, err);
        more = page.more;
        for (size_t i = 0; rc == 0 && i < page.n; i++) {
            char target[ADAPTER_ID_CAP] = "";
            memcpy(after, page.at[i], strlen(page.at[i]) + 1);
            int got = adapter_alias_get(a, page.at[i], call, target, NULL);
            if (got == 0 && strcmp(target, id) == 0) {
                char key[KEY_CAP];
                key_of(key, "aliases/", page.at[i], "");
                rc = store_remove(a, key, call, err);
            }
        }
        adapter_names_clear(&page);
    }
    return rc;
}

static int delete_marks(struct adapters *a, const char *id, const struct claas_call *call,
                        struct claas_error *err)
{
    struct adapter_names marks = { 0 };
    int rc = adapter_mark_list(a, id, call, &marks, err);
    for (size_t i = 0; rc == 0 && i < marks.n; i++) {
        char *dot = NULL;
        uint64_t n = strtoull(marks.at[i], &dot, 10);
        rc = *dot == '.' ? adapter_mark_clear(a, id, n, dot + 1, call, err) : 0;
    }
    adapter_names_clear(&marks);
    return rc;
}

/* What stands around a log that ended. Somebody may have made the id anew meanwhile: then the
 * marker comes back. */
static int delete_traces(struct adapters *a, const char *id, const struct claas_call *call,
                         struct claas_error *err)
{
    char key[KEY_CAP];
    key_of(key, "adapters/", id, "");
    int rc = store_remove(a, key, call, err);
    if (rc == 0) {
        rc = delete_aliases(a, id, call, err);
    }
    if (rc == 0) {
        rc = delete_marks(a, id, call, err);
    }
    struct adapter_entry *end = NULL;
    if (rc == 0) {
        rc = adapter_log_end(a, id, call, &end, err);
    }
    if (rc == 0 && end && end->kind != ADAPTER_DELETE) {
        rc = marker_set(a, id, call, err);
    }
    adapter_entry_unref(end);
    return rc;
}

static int delete_log(struct adapters *a, const char *id, const char *job,
                      const struct claas_call *call, struct claas_error *err)
{
    char name[ADAPTER_JOB_CAP];
    int rc = job_or_fresh(job, name, err);
    for (int round = 0; rc == 0; round++) {
        struct adapter_entry *head = NULL;
        struct adapter_entry *end = NULL;
        rc = adapter_head(a, id, call, &head, err);
        if (rc) {
            break;
        }
        struct entry_draft d = {
            .id = id,
            .n = head->n + 1,
            .kind = ADAPTER_DELETE,
            .job = name,
            .previous = &head->sha256,
        };
        rc = log_append(a, &d, call, &end, err);
        adapter_entry_unref(head);
        if (rc == 0) {
            adapter_entry_unref(end);
        }
        if (rc != CLAAS_ERR_CONFLICT || round + 1 == COMMIT_ROUNDS) {
            break;
        }
        rc = 0; /* somebody was first: delete that one too */
    }
    return rc;
}

int adapter_delete(struct adapters *a, const char *name, const char *job,
                   const struct claas_call *call, struct claas_error *err)
{
    struct adapter_name found = { 0 };
    struct claas_error local = ERR_INIT;
    char id[ADAPTER_ID_CAP];
    int rc = name && strchr(name, '@') ? err_set(&local, CLAAS_ERR_INVALID, "lora_id",
                                                 "'%.200s' is one version: versions "
                                                 "stay until the adapter goes",
                                                 name)
                                       : adapter_id_check(name, &local);
    if (rc == 0) {
        rc = delete_log(a, name, job, call, &local);
        memcpy(id, name, strlen(name) + 1);
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        rc = adapter_alias_delete(a, name, call, &local);
        if (rc == 0) {
            return 0;
        }
    }
    if (rc == CLAAS_ERR_NOT_FOUND && adapter_id_strip(name, found.id, NULL) == 0 &&
        strcmp(found.id, name) != 0) {
        memcpy(id, found.id, sizeof id);
        rc = delete_log(a, id, job, call, &local);
    }
    if (rc == 0) {
        rc = delete_traces(a, id, call, &local);
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        return err_set(err, rc, "lora_id", "there is no adapter or alias '%s'", name);
    }
    if (rc && err) {
        *err = local;
    }
    return rc;
}
