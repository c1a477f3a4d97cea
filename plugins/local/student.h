/* SPDX-License-Identifier: MIT */
/* The student's pass with gradient: a forward pass over one sequence that keeps what the backward pass needs, and the
 * backward pass, which forms gradients of the adapter only. Kept for each layer: the inputs of both norms, rotated Q, K
 * and V, the attention's output and log-sums, gate and up, and the low-rank products; norms and silu(gate) * up are
 * computed again. With `recompute` only the input of each block is kept. */
#ifndef LOCAL_STUDENT_H
#define LOCAL_STUDENT_H

#include "plugins/local/arena.h"
#include "plugins/local/lora.h"
#include "plugins/local/model.h"
#include "plugins/local/pulse.h"

struct student_layer { /* n rows: all of the sequence; m rows: those that go beyond keys and values (last layer: wanted) */
    float *x;          /* [n][hidden] */
    float *x_scale;    /* [n] of the norm */
    float *kv;         /* [n][2 * kv_width] */
    float *q;          /* [m][q_width] */
    float *o;          /* [m][q_width] */
    float *lse;        /* [m][heads] */
    float *mid;        /* [m][hidden], between attention and MLP */
    float *mid_scale;  /* [m] */
    float *gate_up;    /* [m][2 * intermediate]; the backward pass overwrites it */
    float *s_kv;       /* [n][2 * rank] low-rank products */
    float *s_q;        /* [m][rank] */
    float *s_o;        /* [m][rank] */
    float *s_gate_up;  /* [m][2 * rank] */
    float *s_down;     /* [m][rank] */
};

struct student {
    const struct model *model;
    const struct lora *lora;
    int recompute;
    size_t n;      /* of the present sequence */
    size_t wanted;
    struct arena arena;
    struct student_layer *layers;
    float *last;       /* [wanted][hidden] input of the final norm */
    float *last_scale; /* [wanted] */
    float *hidden;     /* [wanted][hidden] its output */
    float *d_hidden;   /* [wanted][hidden] gradient of it, for the caller to fill */
    float *h;          /* scratch of one layer: [n][hidden] */
    float *act;        /* [n][intermediate] */
    float *dx;         /* [n][hidden] */
    float *dh;         /* [n][hidden] */
    float *d_act;      /* [n][intermediate] */
    float *d_o;        /* [n][q_width] */
    float *dq;         /* [n][q_width] */
    float *d_kv;       /* [n][2 * kv_width] */
    float *ds;         /* [n][2 * rank] */
};

/* Memory for one sequence of n tokens (1 to the context), the last `wanted` (1 to n) of which matter. */
int student_open(const struct model *m, const struct lora *lora, size_t n, size_t wanted, int recompute,
                 struct student *out, struct claas_error *err);
void student_close(struct student *s);

/* Fills s->hidden from n ids. One beat for each layer. */
int student_forward(struct student *s, const int32_t *ids, struct pulse *pulse, struct claas_error *err);
/* Adds to grad (device, laid out as lora->flat) from s->d_hidden; once after each forward. One beat for each layer. */
int student_backward(struct student *s, float *grad, struct pulse *pulse, struct claas_error *err);

#endif
