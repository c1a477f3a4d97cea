/* SPDX-License-Identifier: MIT */
/* From a version of the host to an adapter in memory: a pointer when it is warm, its files when it is not. */
#include "config.h"

#include "plugins/local/instance.h"

#include "plugins/local/moments.h"
#include "plugins/local/peft.h"

#include "base/err.h"
#include "base/sha256.h"

#include <string.h>
#include <time.h>

const char *const instance_formats[] = { PEFT_FORMAT, NULL };

static int has_file(const struct claas_version *v, const char *name)
{
    for (uint32_t i = 0; i < v->n_files; i++) {
        if (strcmp(v->files[i]->name, name) == 0) {
            return 1;
        }
    }
    return 0;
}

static int check_files(const struct claas_version *v, struct claas_error *err)
{
    static const char *const needed[] = { PEFT_WEIGHTS, PEFT_CONFIG };
    if (!v->format || strcmp(v->format, PEFT_FORMAT) != 0) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "format", "cannot use adapter '%s': its format is '%.40s', known is %s",
                       v->label, v->format ? v->format : "", PEFT_FORMAT);
    }
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (!has_file(v, needed[i])) {
            return err_set(err, CLAAS_ERR_INVALID, needed[i], "cannot use adapter '%s': it has no file '%s'", v->label,
                           needed[i]);
        }
    }
    return 0;
}

/* Paths are asked for one by one, for the host may hand out the same buffer twice. */
static int read_files(const struct instance *self, const struct claas_version *v, int with_moments,
                      struct warm_adapter *out, struct claas_error *err)
{
    const char *path = NULL;
    char weights[4096];
    int rc = v->path(v, PEFT_WEIGHTS, &path, err);
    if (!rc && strlen(path) >= sizeof weights) {
        return err_set(err, CLAAS_ERR_INVALID, PEFT_WEIGHTS, "the path of '%s' is too long", v->label);
    }
    if (!rc) {
        memcpy(weights, path, strlen(path) + 1);
        rc = v->path(v, PEFT_CONFIG, &path, err);
    }
    rc = rc ? rc : peft_read(self->kernels, &self->model->geometry, weights, path, &out->lora, err);
    if (!rc && with_moments && out->has_moments) {
        rc = v->path(v, MOMENTS_FILE, &path, err);
        rc = rc ? rc : moments_read(out->lora, path, &out->moments, err);
    }
    if (rc) {
        err_prefix(err, "adapter '%s'", v->label);
    }
    return rc;
}

static const struct warm_adapter *find(struct instance *self, const struct claas_version *v, int for_training)
{
    return for_training ? warm_find_state(self->warm, &v->state) : warm_find_serve(self->warm, &v->serve);
}

/* ---- one reader for each version ---- */

/* A version that somebody reads now; others who want it wait for him, and nobody for other versions. */
struct reading {
    struct reading *next;
    const struct claas_version *version;
    int for_training;
};

static int reads(const struct reading *r, const struct claas_version *version, int for_training)
{
    const struct claas_version *v = r->version;
    return r->for_training == for_training &&
           (for_training ? sha256_equal(&v->state, &version->state) : sha256_equal(&v->serve, &version->serve));
}

static int is_read(const struct instance *self, const struct reading *mine)
{
    for (const struct reading *r = self->readings; r; r = r->next) {
        if (reads(r, mine->version, mine->for_training)) {
            return 1;
        }
    }
    return 0;
}

static int out_of_time(const struct claas_call *call)
{
    return call && call->left_ms && call->left_ms(call) == 0;
}

/* Waits until nobody reads the version; then it is ours to read, unless it was called off. */
static int reading_begin(struct instance *self, struct reading *mine, const struct claas_call *call,
                         struct claas_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&self->reading);
    while (is_read(self, mine) && !rc) {
        if (out_of_time(call)) {
            rc = err_set(err, CLAAS_ERR_CANCELLED, NULL, "waiting for the files of adapter '%s' was called off",
                         mine->version->label);
        } else {
            struct timespec until;
            (void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail for this clock */
            until.tv_sec++;
            (void)pthread_cond_timedwait(&self->read, &self->reading, &until); /* timeout or not: looks again */
        }
    }
    if (!rc) {
        mine->next = self->readings;
        self->readings = mine;
    }
    pthread_mutex_unlock(&self->reading);
    return rc;
}

static void reading_end(struct instance *self, struct reading *mine)
{
    pthread_mutex_lock(&self->reading);
    struct reading **at = &self->readings;
    while (*at != mine) {
        at = &(*at)->next;
    }
    *at = mine->next;
    pthread_cond_broadcast(&self->read);
    pthread_mutex_unlock(&self->reading);
}

void instance_reading_init(struct instance *self)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr); /* these cannot fail on Linux */
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&self->reading, NULL);
    (void)pthread_cond_init(&self->read, &attr);
    (void)pthread_condattr_destroy(&attr);
}

void instance_reading_clear(struct instance *self)
{
    (void)pthread_cond_destroy(&self->read);
    (void)pthread_mutex_destroy(&self->reading);
}

int instance_adapter(struct instance *self, const struct claas_version *version, int for_training,
                     const struct claas_call *call, const struct warm_adapter **out, struct claas_error *err)
{
    struct reading mine = { .version = version, .for_training = for_training };
    *out = find(self, version, for_training);
    int rc = *out ? 0 : check_files(version, err);
    if (rc || *out) {
        return rc;
    }
    rc = reading_begin(self, &mine, call, err);
    if (rc) {
        return rc;
    }
    *out = find(self, version, for_training); /* another request may have read it meanwhile */
    if (!*out) {
        struct warm_adapter read = { .has_moments = has_file(version, MOMENTS_FILE) };
        const struct warm_keys keys = { .state = &version->state, .serve = &version->serve };
        rc = read_files(self, version, for_training, &read, err);
        rc = rc ? rc : warm_put(self->warm, &keys, &read, out, err);
        lora_free(read.lora);
        optim_free(read.moments);
    }
    reading_end(self, &mine);
    return rc;
}

int instance_check_room(const struct instance *self, size_t n, const char *what, struct claas_error *err)
{
    if (n > self->model->geometry.context) {
        return err_set(err, CLAAS_ERR_INVALID, what, "the %s of %zu tokens is longer than the context of %zu tokens", what,
                       n, self->model->geometry.context);
    }
    return 0;
}
