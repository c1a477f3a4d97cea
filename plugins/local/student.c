/* SPDX-License-Identifier: MIT */
/* Forward with kept activations, backward to the adapter. */
#include "config.h"

#include "plugins/local/student.h"

#include "plugins/local/lowrank.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

/* ---- memory ---- */

static void slot_take(struct student *s, struct student_layer *layer)
{
    const struct model *m = s->model;
    const struct model_geometry *g = &m->geometry;
    size_t n = s->n;
    size_t rank = s->lora->spec.rank;
    layer->x_scale = arena_take(&s->arena, n);
    layer->kv = arena_take(&s->arena, n * 2 * m->kv_width);
    layer->q = arena_take(&s->arena, n * m->q_width);
    layer->o = arena_take(&s->arena, n * m->q_width);
    layer->lse = arena_take(&s->arena, n * g->heads);
    layer->mid = arena_take(&s->arena, n * g->hidden);
    layer->mid_scale = arena_take(&s->arena, n);
    layer->gate_up = arena_take(&s->arena, n * 2 * g->intermediate);
    layer->s_kv = arena_take(&s->arena, n * 2 * rank);
    layer->s_q = arena_take(&s->arena, n * rank);
    layer->s_o = arena_take(&s->arena, n * rank);
    layer->s_gate_up = arena_take(&s->arena, n * 2 * rank);
    layer->s_down = arena_take(&s->arena, n * rank);
}

static void student_take(struct student *s)
{
    const struct model *m = s->model;
    const struct model_geometry *g = &m->geometry;
    for (size_t i = 0; i < g->layers; i++) {
        struct student_layer *layer = &s->layers[i];
        if (s->recompute && i > 0) {
            *layer = s->layers[0]; /* one slot for all, but for the input */
        } else {
            slot_take(s, layer);
        }
        layer->x = arena_take(&s->arena, s->n * g->hidden);
    }
    s->last = arena_take(&s->arena, s->wanted * g->hidden);
    s->last_scale = arena_take(&s->arena, s->wanted);
    s->hidden = arena_take(&s->arena, s->wanted * g->hidden);
    s->d_hidden = arena_take(&s->arena, s->wanted * g->hidden);
    s->h = arena_take(&s->arena, s->n * g->hidden);
    s->act = arena_take(&s->arena, s->n * g->intermediate);
    s->dx = arena_take(&s->arena, s->n * g->hidden);
    s->dh = arena_take(&s->arena, s->n * g->hidden);
    s->d_act = arena_take(&s->arena, s->n * g->intermediate);
    s->d_o = arena_take(&s->arena, s->n * m->q_width);
    s->dq = arena_take(&s->arena, s->n * m->q_width);
    s->d_kv = arena_take(&s->arena, s->n * 2 * m->kv_width);
    s->ds = arena_take(&s->arena, s->n * 2 * s->lora->spec.rank);
}

int student_open(const struct model *m, const struct lora *lora, size_t n, size_t wanted, int recompute,
                 struct student *out, struct claas_error *err)
{
    *out = (struct student){ .model = m,
                             .lora = lora,
                             .recompute = recompute,
                             .n = n,
                             .wanted = wanted,
                             .arena = { .kernels = m->kernels } };
    out->layers = mem_array(m->geometry.layers, sizeof *out->layers);
    if (!out->layers) {
        return err_oom(err, "planning the student's pass");
    }
    student_take(out);
    int rc = arena_alloc(&out->arena, err);
    if (rc == 0) {
        student_take(out);
    }
    return rc;
}

void student_close(struct student *s)
{
    if (s->arena.kernels) {
        arena_free(&s->arena);
    }
    free(s->layers);
    s->layers = NULL;
}

/* ---- one layer ---- */

struct at { /* where we are */
    struct student *s;
    size_t i;    /* layer */
    size_t m;    /* rows beyond keys and values */
    size_t skip; /* n - m */
    struct student_layer *layer;
    const struct model_layer *weights;
};

static struct at at_layer(struct student *s, size_t i)
{
    size_t m = i + 1 < s->model->geometry.layers ? s->n : s->wanted;
    return (struct at){ s, i, m, s->n - m, &s->layers[i], &s->model->layers[i] };
}

static struct lowrank lowrank_of(const struct at *at, const struct kernels_weight *w, enum lora_module first,
                                 enum lora_module last)
{
    return (struct lowrank){ .lora = at->s->lora,
                             .layer = at->i,
                             .first = first,
                             .last = last,
                             .width = kernels_weight_out(w) / (size_t)(last - first + 1),
                             .in = kernels_weight_in(w) };
}

static int linear(const struct at *at, const struct kernels_weight *w, enum lora_module first, enum lora_module last,
                  size_t rows, const float *x, float *s, float *y, int accumulate, struct claas_error *err)
{
    struct lowrank l = lowrank_of(at, w, first, last);
    size_t out = kernels_weight_out(w);
    int rc = kernels_linear(at->s->model->kernels, w, rows, x, l.in, y, out, accumulate, err);
    return rc != 0 ? rc : lowrank_forward(&l, rows, x, l.in, s, y, out, err);
}

/* dx null: the input needs no gradient, only the adapter's. */
static int linear_backward(const struct at *at, const struct kernels_weight *w, enum lora_module first,
                           enum lora_module last, size_t rows, const float *x, const float *s, const float *dy,
                           float *dx, int accumulate, float *grad, struct claas_error *err)
{
    struct lowrank l = lowrank_of(at, w, first, last);
    size_t out = kernels_weight_out(w);
    int rc = dx ? kernels_linear_backward(at->s->model->kernels, w, rows, dy, out, dx, l.in, accumulate, err) : 0;
    return rc != 0 ? rc
                   : lowrank_backward(&l, rows, x, l.in, s, dy, out, at->s->ds, grad, dx, l.in, err);
}

static struct kernels_attention attention_of(const struct at *at)
{
    const struct model *m = at->s->model;
    const struct model_geometry *g = &m->geometry;
    return (struct kernels_attention){
        .rows = at->m,
        .start = at->skip,
        .heads = g->heads,
        .kv_heads = g->kv_heads,
        .head_dim = g->head_dim,
        .scale = 1 / sqrtf((float)g->head_dim),
        .q = at->layer->q,
        .q_pitch = m->q_width,
        .k = at->layer->kv,
        .k_pitch = 2 * m->kv_width,
        .v = at->layer->kv + m->kv_width,
        .v_pitch = 2 * m->kv_width,
    };
}

static int rotate(const struct at *at, size_t rows, size_t heads, size_t start, float *x, size_t pitch, int inverse,
                  struct claas_error *err)
{
    const struct model *m = at->s->model;
    return kernels_rope(m->kernels, rows, heads, m->geometry.head_dim / 2, start, m->cos_table, m->sin_table, x, pitch,
                        inverse, err);
}

static int norm(const struct at *at, size_t rows, const float *x, const float *weight, float *y, float *scale,
                struct claas_error *err)
{
    const struct model_geometry *g = &at->s->model->geometry;
    return kernels_rmsnorm(at->s->model->kernels, rows, g->hidden, x, g->hidden, weight, (float)g->eps, y, g->hidden,
                           scale, err);
}

static int norm_backward(const struct at *at, size_t rows, const float *x, const float *weight, const float *scale,
                         const float *dy, float *dx, struct claas_error *err)
{
    size_t hidden = at->s->model->geometry.hidden;
    return kernels_rmsnorm_backward(at->s->model->kernels, rows, hidden, x, hidden, weight, scale, dy, hidden, dx,
                                    hidden, 1, err);
}

static int attention_forward(const struct at *at, struct claas_error *err)
{
    const struct student *s = at->s;
    const struct model *m = s->model;
    const struct model_geometry *g = &m->geometry;
    struct student_layer *layer = at->layer;
    size_t kv_pitch = 2 * m->kv_width;
    struct kernels_attention a = attention_of(at);
    int rc = norm(at, s->n, layer->x, at->weights->attention_norm, s->h, layer->x_scale, err);
    if (rc == 0) {
        rc = linear(at, at->weights->kv, LORA_K, LORA_V, s->n, s->h, layer->s_kv, layer->kv, 0, err);
    }
    if (rc == 0) {
        rc = model_add_bias(m, at->weights->kv_bias, s->n, kv_pitch, layer->kv, kv_pitch, err);
    }
    if (rc == 0) {
        rc = rotate(at, s->n, g->kv_heads, 0, layer->kv, kv_pitch, 0, err);
    }
    if (rc == 0) {
        rc = linear(at, at->weights->q, LORA_Q, LORA_Q, at->m, s->h + at->skip * g->hidden, layer->s_q, layer->q, 0,
                    err);
    }
    if (rc == 0) {
        rc = model_add_bias(m, at->weights->q_bias, at->m, m->q_width, layer->q, m->q_width, err);
    }
    if (rc == 0) {
        rc = rotate(at, at->m, g->heads, at->skip, layer->q, m->q_width, 0, err);
    }
    if (rc == 0) {
        rc = kernels_attention(m->kernels, &a, layer->o, m->q_width, layer->lse, err);
    }
    if (rc == 0) {
        rc = kernels_copy_rows(m->kernels, at->m, g->hidden, layer->x + at->skip * g->hidden, g->hidden, layer->mid,
                               g->hidden, err);
    }
    if (rc == 0) {
        rc = linear(at, at->weights->o, LORA_O, LORA_O, at->m, layer->o, layer->s_o, layer->mid, 1, err);
    }
    return rc != 0 ? rc : model_add_bias(m, at->weights->o_bias, at->m, g->hidden, layer->mid, g->hidden, err);
}

static int activate(const struct at *at, struct claas_error *err)
{
    size_t inner = at->s->model->geometry.intermediate;
    const float *gate = at->layer->gate_up;
    return kernels_swiglu(at->s->model->kernels, at->m, inner, gate, gate + inner, 2 * inner, at->s->act, inner, err);
}

/* next: where the block's output goes; null (recomputing): all but the output, of which only the low-rank product is
 * needed again. */
static int mlp_forward(const struct at *at, float *next, struct claas_error *err)
{
    const struct student *s = at->s;
    size_t hidden = s->model->geometry.hidden;
    struct student_layer *layer = at->layer;
    int rc = norm(at, at->m, layer->mid, at->weights->mlp_norm, s->h, layer->mid_scale, err);
    if (rc == 0) {
        rc = linear(at, at->weights->gate_up, LORA_GATE, LORA_UP, at->m, s->h, layer->s_gate_up, layer->gate_up, 0,
                    err);
    }
    if (rc == 0) {
        rc = activate(at, err);
    }
    if (rc == 0 && next) {
        rc = kernels_copy_rows(s->model->kernels, at->m, hidden, layer->mid, hidden, next, hidden, err);
    }
    if (rc == 0 && next) {
        rc = linear(at, at->weights->down, LORA_DOWN, LORA_DOWN, at->m, s->act, layer->s_down, next, 1, err);
    }
    if (rc == 0 && !next) {
        struct lowrank down = lowrank_of(at, at->weights->down, LORA_DOWN, LORA_DOWN);
        rc = lowrank_forward(&down, at->m, s->act, down.in, layer->s_down, NULL, 0, err);
    }
    return rc;
}

/* dx holds the gradient of the block's output in its last m rows; then that of mid. */
static int mlp_backward(const struct at *at, float *grad, struct claas_error *err)
{
    const struct student *s = at->s;
    struct student_layer *layer = at->layer;
    size_t hidden = s->model->geometry.hidden;
    size_t inner = s->model->geometry.intermediate;
    float *dx = s->dx + at->skip * hidden;
    float *gate = layer->gate_up;
    int rc = activate(at, err);
    if (rc == 0) {
        rc = linear_backward(at, at->weights->down, LORA_DOWN, LORA_DOWN, at->m, s->act, layer->s_down, dx, s->d_act,
                             0, grad, err);
    }
    if (rc == 0) {
        rc = kernels_swiglu_backward(s->model->kernels, at->m, inner, gate, gate + inner, 2 * inner, s->d_act, inner,
                                     gate, gate + inner, 2 * inner, err);
    }
    if (rc == 0) {
        rc = norm(at, at->m, layer->mid, at->weights->mlp_norm, s->h, NULL, err);
    }
    if (rc == 0) {
        rc = linear_backward(at, at->weights->gate_up, LORA_GATE, LORA_UP, at->m, s->h, layer->s_gate_up, gate, s->dh,
                             0, grad, err);
    }
    return rc != 0 ? rc
                   : norm_backward(at, at->m, layer->mid, at->weights->mlp_norm, layer->mid_scale, s->dh, dx, err);
}

/* From the gradient of mid to those of q (rotated back), k and v. */
static int attend_backward(const struct at *at, float *grad, struct claas_error *err)
{
    const struct student *s = at->s;
    const struct model *m = s->model;
    const struct model_geometry *g = &m->geometry;
    struct student_layer *layer = at->layer;
    size_t kv_pitch = 2 * m->kv_width;
    struct kernels_attention a = attention_of(at);
    int rc = linear_backward(at, at->weights->o, LORA_O, LORA_O, at->m, layer->o, layer->s_o,
                             s->dx + at->skip * g->hidden, s->d_o, 0, grad, err);
    if (rc == 0) {
        rc = kernels_attention_backward(m->kernels, &a, layer->o, m->q_width, layer->lse, s->d_o, m->q_width, s->dq,
                                        m->q_width, s->d_kv, kv_pitch, s->d_kv + m->kv_width, kv_pitch, err);
    }
    if (rc == 0) {
        rc = rotate(at, at->m, g->heads, at->skip, s->dq, m->q_width, 1, err);
    }
    return rc != 0 ? rc : rotate(at, s->n, g->kv_heads, 0, s->d_kv, kv_pitch, 1, err);
}

/* Nothing below the first block is trained, so that its input needs no gradient. */
static int attention_backward(const struct at *at, float *grad, struct claas_error *err)
{
    const struct student *s = at->s;
    struct student_layer *layer = at->layer;
    size_t tail = at->skip * s->model->geometry.hidden;
    float *dh = at->i > 0 ? s->dh : NULL;
    int rc = attend_backward(at, grad, err);
    if (rc == 0) {
        rc = norm(at, s->n, layer->x, at->weights->attention_norm, s->h, NULL, err);
    }
    if (rc == 0) {
        rc = linear_backward(at, at->weights->kv, LORA_K, LORA_V, s->n, s->h, layer->s_kv, s->d_kv, dh, 0, grad, err);
    }
    if (rc == 0) {
        rc = linear_backward(at, at->weights->q, LORA_Q, LORA_Q, at->m, s->h + tail, layer->s_q, s->dq,
                             dh ? dh + tail : NULL, 1, grad, err);
    }
    if (rc == 0 && dh) {
        rc = norm_backward(at, s->n, layer->x, at->weights->attention_norm, layer->x_scale, dh, s->dx, err);
    }
    return rc;
}

/* ---- the whole pass ---- */

int student_forward(struct student *s, const int32_t *ids, struct pulse *pulse, struct claas_error *err)
{
    const struct model *m = s->model;
    size_t layers = m->geometry.layers;
    int rc = kernels_gather(m->kernels, m->embedding, s->n, ids, s->layers[0].x, m->geometry.hidden, err);
    for (size_t i = 0; i < layers && rc == 0; i++) {
        struct at at = at_layer(s, i);
        rc = attention_forward(&at, err);
        if (rc == 0) {
            rc = mlp_forward(&at, i + 1 < layers ? s->layers[i + 1].x : s->last, err);
        }
        rc = rc != 0 ? rc : pulse_beat(pulse, err);
    }
    struct at end = at_layer(s, layers - 1);
    return rc != 0 ? rc : norm(&end, s->wanted, s->last, m->final_norm, s->hidden, s->last_scale, err);
}

int student_backward(struct student *s, float *grad, struct pulse *pulse, struct claas_error *err)
{
    const struct model *m = s->model;
    size_t hidden = m->geometry.hidden;
    size_t layers = m->geometry.layers;
    struct at end = at_layer(s, layers - 1);
    int rc = kernels_zero(m->kernels, s->dx, s->n * hidden * sizeof *s->dx, err);
    if (rc == 0) {
        rc = norm_backward(&end, s->wanted, s->last, m->final_norm, s->last_scale, s->d_hidden,
                           s->dx + end.skip * hidden, err);
    }
    for (size_t i = layers; i-- > 0 && rc == 0;) {
        struct at at = at_layer(s, i);
        if (s->recompute && i + 1 < layers) { /* the slot still holds the last layer's */
            rc = attention_forward(&at, err);
            rc = rc != 0 ? rc : mlp_forward(&at, NULL, err);
        }
        if (rc == 0) {
            rc = mlp_backward(&at, grad, err);
        }
        if (rc == 0) {
            rc = attention_backward(&at, grad, err);
        }
        rc = rc != 0 ? rc : pulse_beat(pulse, err);
    }
    return rc;
}
