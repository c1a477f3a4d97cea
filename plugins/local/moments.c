/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/moments.h"

#include "plugins/local/lorafile.h"

#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct moment {
    const struct lora *lora;
    struct optim *optim;
    enum optim_moment which;
};

static int moment_get(const void *ctx, size_t tensor, float *host, struct claas_error *err)
{
    const struct moment *m = ctx;
    const struct lora_tensor *t = &m->lora->tensors[tensor];
    return optim_read(m->optim, m->which, t->offset, t->rows * t->cols, host, err);
}

static int moment_put(void *ctx, size_t tensor, const float *host, struct claas_error *err)
{
    const struct moment *m = ctx;
    const struct lora_tensor *t = &m->lora->tensors[tensor];
    return optim_write(m->optim, m->which, t->offset, t->rows * t->cols, host, err);
}

int moments_write(const struct lora *lora, const struct optim *o, struct claas_out *out, struct claas_error *err)
{
    /* Reading does not change the state; optim_read takes it as const again. */
    const struct moment mean = { lora, (struct optim *)o, OPTIM_MEAN };
    const struct moment var = { lora, (struct optim *)o, OPTIM_VAR };
    const struct lorafile_run runs[] = { { "exp_avg.", &mean, moment_get }, { "exp_avg_sq.", &var, moment_get } };
    char format[] = MOMENTS_FORMAT;
    char updates[24];
    (void)snprintf(updates, sizeof updates, "%" PRIu64, o->step);
    const struct safetensors_pair metadata[] = { { (char *)"format", format }, { (char *)"updates", updates } };
    return lorafile_write(lora, runs, 2, metadata, 2, MOMENTS_FILE, CLAAS_TRAIN, out, err);
}

static int updates_parse(const char *text, uint64_t *out)
{
    char *end = NULL;
    if (!text || *text < '0' || *text > '9') {
        return -1;
    }
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno || *end || *out > (UINT64_C(1) << 53) ? -1 : 0;
}

static int check_form(const struct lora *lora, const struct safetensors *s, uint64_t *updates,
                      struct claas_error *err)
{
    const char *format = safetensors_metadata(s, "format");
    if (!format || strcmp(format, MOMENTS_FORMAT) != 0) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, MOMENTS_FILE, "cannot use '%s': its format is '%.40s', known is %s",
                       s->path, format ? format : "", MOMENTS_FORMAT);
    }
    if (updates_parse(safetensors_metadata(s, "updates"), updates)) {
        return err_set(err, CLAAS_ERR_CORRUPT, MOMENTS_FILE, "cannot use '%s': 'updates' in its metadata is no number",
                       s->path);
    }
    if (s->n_entries != 2 * lora->n_tensors) {
        return err_set(err, CLAAS_ERR_INVALID, MOMENTS_FILE, "cannot use '%s': %zu tensors, expected %zu for this adapter",
                       s->path, s->n_entries, 2 * lora->n_tensors);
    }
    return 0;
}

int moments_read(const struct lora *lora, const char *path, struct optim **out, struct claas_error *err)
{
    struct safetensors *s = NULL;
    struct optim *optim = NULL;
    uint64_t updates = 0;
    int rc = safetensors_open(path, &s, err);
    rc = rc ? rc : check_form(lora, s, &updates, err);
    rc = rc ? rc : optim_create(lora->kernels, lora->n, &optim, err);
    if (!rc) {
        struct moment mean = { lora, optim, OPTIM_MEAN };
        struct moment var = { lora, optim, OPTIM_VAR };
        rc = lorafile_read(lora, s, "exp_avg.", &mean, moment_put, err);
        rc = rc ? rc : lorafile_read(lora, s, "exp_avg_sq.", &var, moment_put, err);
    }
    safetensors_close(s);
    if (rc) {
        optim_free(optim);
        return rc;
    }
    optim->step = updates;
    *out = optim;
    return 0;
}
