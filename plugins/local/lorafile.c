/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/lorafile.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_CAP = LORA_NAME_CAP + 16 };

struct order {
    const struct lora_tensor *tensor;
    size_t index;
};

static int compare_order(const void *a, const void *b)
{
    return strcmp(((const struct order *)a)->tensor->name, ((const struct order *)b)->tensor->name);
}

/* The table by name; *out_most is the size of the largest tensor. Null when out of memory. */
static struct order *order_by_name(const struct lora *lora, size_t *out_most)
{
    struct order *order = mem_array(lora->n_tensors, sizeof *order);
    *out_most = 0;
    for (size_t i = 0; order && i < lora->n_tensors; i++) {
        size_t n = lora->tensors[i].rows * lora->tensors[i].cols;
        order[i] = (struct order){ &lora->tensors[i], i };
        *out_most = n > *out_most ? n : *out_most;
    }
    if (order) {
        qsort(order, lora->n_tensors, sizeof *order, compare_order);
    }
    return order;
}

static int write_header(const struct lora *lora, const struct order *order, const struct lorafile_run *runs,
                        size_t n_runs, const struct safetensors_pair *metadata, size_t n_metadata, struct buf *out,
                        struct claas_error *err)
{
    size_t n = n_runs * lora->n_tensors;
    struct safetensors_plan *plans = mem_array(n, sizeof *plans);
    char(*names)[NAME_CAP] = mem_array(n, sizeof *names);
    int rc = plans && names ? 0 : err_oom(err, "writing an adapter");
    for (size_t i = 0; !rc && i < n; i++) {
        const struct lora_tensor *t = order[i % lora->n_tensors].tensor;
        (void)snprintf(names[i], sizeof names[i], "%s%s", runs[i / lora->n_tensors].prefix, t->name);
        plans[i] = (struct safetensors_plan){ names[i], t->rows, t->cols };
    }
    rc = rc ? rc : safetensors_header(plans, n, metadata, n_metadata, out, err);
    free(plans);
    free(names);
    return rc;
}

int lorafile_write(const struct lora *lora, const struct lorafile_run *runs, size_t n_runs,
                   const struct safetensors_pair *metadata, size_t n_metadata, const char *name, uint32_t roles,
                   struct claas_out *out, struct claas_error *err)
{
    size_t most;
    struct buf header = BUF_INIT;
    struct order *order = order_by_name(lora, &most);
    float *host = mem_array(most, sizeof *host);
    int rc = order && host ? write_header(lora, order, runs, n_runs, metadata, n_metadata, &header, err)
                           : err_oom(err, "writing an adapter");
    rc = rc ? rc : out->write(out, name, roles, header.data, header.len, err);
    for (size_t i = 0; !rc && i < n_runs * lora->n_tensors; i++) {
        const struct lorafile_run *run = &runs[i / lora->n_tensors];
        const struct order *o = &order[i % lora->n_tensors];
        rc = run->get(run->ctx, o->index, host, err);
        rc = rc ? rc : out->write(out, name, roles, host, o->tensor->rows * o->tensor->cols * sizeof *host, err);
    }
    buf_clear(&header);
    free(order);
    free(host);
    return rc;
}

/* The other half of a pair: lora_A for lora_B and the other way round. */
static void other_half(const char *name, char out[NAME_CAP])
{
    (void)snprintf(out, NAME_CAP, "%s", name);
    char *at = strstr(out, ".lora_");
    if (at) {
        at[6] = at[6] == 'A' ? 'B' : 'A';
    }
}

static int missing(const struct safetensors *s, const char *label, const char *name, struct claas_error *err)
{
    char other[NAME_CAP];
    other_half(name, other);
    return err_set(err, CLAAS_ERR_INVALID, name, "cannot use '%.100s': tensor '%s' is missing%s", label, name,
                   safetensors_find(s, other) ? ", though the other half of its pair is there" : "");
}

int lorafile_read(const struct lora *lora, const struct safetensors *s, const char *prefix, void *ctx,
                  lorafile_put put, struct claas_error *err)
{
    size_t most;
    int rc = 0;
    struct order *order = order_by_name(lora, &most);
    float *host = mem_array(most, sizeof *host);
    if (!order || !host) {
        rc = err_oom(err, "reading an adapter");
    }
    for (size_t i = 0; !rc && i < lora->n_tensors; i++) {
        const struct lora_tensor *t = order[i].tensor;
        char name[NAME_CAP];
        (void)snprintf(name, sizeof name, "%s%s", prefix, t->name);
        const struct safetensors_entry *e = safetensors_find(s, name);
        if (!e) {
            rc = missing(s, s->path, name, err);
        } else if (e->rank != 2 || e->shape[0] != t->rows || e->shape[1] != t->cols) {
            rc = err_set(err, CLAAS_ERR_INVALID, name,
                         "cannot use '%.100s': tensor '%s' is %llu x %llu, expected %zu x %zu for rank %zu", s->path, name,
                         (unsigned long long)(e->rank ? e->shape[0] : 0),
                         (unsigned long long)(e->rank > 1 ? e->shape[1] : 0), t->rows, t->cols, lora->spec.rank);
        }
        rc = rc ? rc : safetensors_floats(s, e, host, err);
        rc = rc ? rc : safetensors_finite(s, e, host, err);
        rc = rc ? rc : put(ctx, order[i].index, host, err);
    }
    free(order);
    free(host);
    return rc;
}
