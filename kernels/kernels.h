/* SPDX-License-Identifier: MIT */
/* What a device must be able to do for the local engine: memory, turns, and the operations of a decoder-only
 * transformer, forward and backward, in float32. kernels/cpu does it on processors; another folder may do it on
 * another device with the same header. Nothing here knows models, adapters or tokens beyond plain integers.
 *
 * Rules for every operation
 * - Matrices are row-major. A "pitch" is the distance between the starts of two rows, in elements; pitch >= columns.
 * - `float *` and `int32_t *` arguments are device memory of the same `struct kernels` unless marked "host"
 *   (on processors there is no difference). They need no alignment beyond their type's; 64 bytes is fastest.
 * - Outputs are stored unless the parameter `accumulate` exists and is not 0: then they are added to.
 * - Outputs may not overlap inputs unless "in place" is said to be allowed; partial overlap never is.
 * - A count of 0 is allowed everywhere, does nothing and succeeds (where a sum is returned, it is 0).
 * - Arithmetic is float32, or as good: where the processor has tile registers, products of many rows take each element
 *   as 24 bits beside the greatest of its row or column (2e-7 of a result was measured), and an infinity or NaN makes all
 *   results of its row or column NaN. Sums run in an order that depends on the shapes only, never on timing or on the number of threads:
 *   the same call gives the same bytes on the same instruction set.
 * - Returns 0 or a CLAAS_ERR_* code: exhausted (no scratch memory), invalid (shapes that cannot be). Outputs are then
 *   undefined. NaN and infinity travel through as IEEE says; kernels_all_finite finds them.
 * - Operations are short (at most tens of milliseconds for a few hundred rows); whoever loops over them polls
 *   for cancellation between them.
 * - Thread-safe in this sense: any thread may call; one operation runs at a time, on all cores (see turns). */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct kernels;        /* an opened device with its threads and scratch memory */
struct kernels_weight; /* a frozen matrix [out][in] in whatever type its file has */

/* ---- device ---- */

/* threads: how many to compute with, the calling one included; 0 = as many as the affinity mask has cores.
 * The environment variable CLAAS_KERNELS_ISA (portable, avx2, avx512, amx) lowers the chosen instruction set. */
int kernels_open(size_t threads, struct kernels **out, struct claas_error *err);
void kernels_close(struct kernels *k); /* null is fine; nobody may hold or wait for a turn */

const char *kernels_isa(const struct kernels *k); /* "amx", "avx512", "avx2", "portable": for logs and info */
size_t kernels_threads(const struct kernels *k);

/* ---- turns: who has the cores ----
 * One holder at a time uses the whole device. A decoded token, or a chunk of a prompt, takes one SERVE turn; a training
 * step takes a TRAIN turn and yields at layer boundaries. Turns of one kind are first come, first served. While both
 * kinds want the device, training gets `train_share` of its time: a yield passes the turn on only when serving waits
 * and training has had its share, and costs a few nanoseconds otherwise. Begin and end are on the same thread and nest
 * (an inner pair does nothing). An operation called outside a turn takes a SERVE turn for itself. */
enum kernels_turn { KERNELS_SERVE, KERNELS_TRAIN };

void kernels_turn_begin(struct kernels *k, enum kernels_turn kind);
void kernels_turn_end(struct kernels *k);
void kernels_turn_yield(struct kernels *k); /* nothing without a turn, in an inner turn, or in a SERVE turn */

/* 0 to 1, default 0.5; values are brought into 0.02 to 0.98, so that neither side ever starves. */
void kernels_set_train_share(struct kernels *k, double share);

/* ---- memory ---- */

/* Zeroed, aligned to 64 bytes. bytes = 0 gives null. */
int kernels_alloc(struct kernels *k, size_t bytes, void **out, struct claas_error *err);
/* The same with any contents, for scratch: cheaper, since kept memory need not be cleared. */
int kernels_alloc_raw(struct kernels *k, size_t bytes, void **out, struct claas_error *err);
/* How many bytes of freed large blocks are kept for the next allocations; what is more is given back. Default 0. */
void kernels_set_kept(struct kernels *k, size_t bytes);
void kernels_free(struct kernels *k, void *p); /* null is fine */
int kernels_zero(struct kernels *k, void *dst, size_t bytes, struct claas_error *err);
int kernels_copy_in(struct kernels *k, void *dst, const void *host_src, size_t bytes, struct claas_error *err);
int kernels_copy_out(struct kernels *k, void *host_dst, const void *src, size_t bytes, struct claas_error *err);
/* rows x cols floats from one pitched array to another (both on the device, no overlap). */
int kernels_copy_rows(struct kernels *k, size_t rows, size_t cols, const float *src, size_t src_pitch,
                      float *dst, size_t dst_pitch, struct claas_error *err);

/* ---- frozen weights ---- */

/* Block types are those of GGUF: blocks of 32 along a row, so that cols must be a multiple of 32 for them. */
enum kernels_type { KERNELS_F32, KERNELS_F16, KERNELS_BF16, KERNELS_Q8_0, KERNELS_Q4_0, KERNELS_Q4_1, KERNELS_TYPES };

/* A run of rows of one type. `data` is host memory (a memory map, any alignment, little-endian), borrowed until
 * kernels_weight_free: a device without access to it copies, the processor reads it in place and keeps no float copy. */
struct kernels_segment {
    enum kernels_type type;
    size_t rows;
    size_t cols;
    const void *data;      /* rows * kernels_row_bytes(type, cols) bytes */
    const uint32_t *order; /* host, rows entries, copied: row i of the matrix is row order[i] of data; null: row i.
                              Undoes the q/k row permutation of GGUF files without touching the map */
};

/* Bytes of one row; 0 when cols is not a whole number of blocks or the type is unknown. */
size_t kernels_row_bytes(enum kernels_type type, size_t cols);

/* The segments one below the other (Q, K and V; gate and up); all with the same cols. */
int kernels_weight_create(struct kernels *k, const struct kernels_segment *segments, size_t n,
                          struct kernels_weight **out, struct claas_error *err);
void kernels_weight_free(struct kernels *k, struct kernels_weight *w); /* null is fine */
size_t kernels_weight_out(const struct kernels_weight *w); /* rows of all segments */
size_t kernels_weight_in(const struct kernels_weight *w);  /* cols */

/* y[m][out] (+)= x[m][in] W^T. Weights are dequantised exactly (bit for bit the formulas of the types); small m (decode)
 * uses fused dequantise-and-dot loops, large m dequantises panels into the cache. */
int kernels_linear(struct kernels *k, const struct kernels_weight *w, size_t m, const float *x, size_t x_pitch,
                   float *y, size_t y_pitch, int accumulate, struct claas_error *err);
/* dx[m][in] (+)= dy[m][out] W. No gradient of W: it is frozen. */
int kernels_linear_backward(struct kernels *k, const struct kernels_weight *w, size_t m, const float *dy,
                            size_t dy_pitch, float *dx, size_t dx_pitch, int accumulate, struct claas_error *err);

/* y[i][in] = W[ids[i]] for i < n: embedding lookup, bit exact. ids: host, each checked to be in [0, out). */
int kernels_gather(struct kernels *k, const struct kernels_weight *w, size_t n, const int32_t *ids,
                   float *y, size_t y_pitch, struct claas_error *err);
/* dx[i][in] (+)= sum over j < n of coef[i][j] * W[ids[i][j]], i < m: the backward pass of a frozen output matrix for
 * a sparse row gradient. coef and ids have n columns, no gaps; ids: host, each in [0, out) or -1 (skipped). */
int kernels_combine(struct kernels *k, const struct kernels_weight *w, size_t m, size_t n, const float *coef,
                    const int32_t *ids, float *dx, size_t dx_pitch, int accumulate, struct claas_error *err);

/* ---- general product, for the trained low-rank matrices ---- */

/* C[m][n] (+)= alpha * op(A)[m][depth] op(B)[depth][n].
 * a_transposed = 0: A is stored [m][depth]; 1: [depth][m]. b_transposed = 0: B is stored [depth][n]; 1: [n][depth].
 *   s = x A^T:        gemm(0, 1, rows, r, in, 1, x, A)        y += scale s B^T:  gemm(0, 1, rows, out, r, scale, s, B), acc
 *   ds = scale dy B:  gemm(0, 0, rows, r, out, scale, dy, B)  dx += ds A:        gemm(0, 0, rows, in, r, 1, ds, A), acc
 *   dB += scale dy^T s: gemm(1, 0, out, r, rows, scale, dy, s), acc   dA += ds^T x: gemm(1, 0, r, in, rows, 1, ds, x), acc
 * depth = 0 with accumulate = 0 stores zeros. */
int kernels_gemm(struct kernels *k, int a_transposed, int b_transposed, size_t m, size_t n, size_t depth, float alpha,
                 const float *a, size_t a_pitch, const float *b, size_t b_pitch,
                 float *c, size_t c_pitch, int accumulate, struct claas_error *err);

/* ---- normalisation, rotation, activation ---- */

/* y[i][j] = x[i][j] * inv_rms[i] * weight[j], inv_rms[i] = 1 / sqrt(mean over j of x^2 + eps), i < m, j < n.
 * inv_rms [m] is kept for the backward pass; null when not wanted. In place (y = x) allowed. */
int kernels_rmsnorm(struct kernels *k, size_t m, size_t n, const float *x, size_t x_pitch, const float *weight,
                    float eps, float *y, size_t y_pitch, float *inv_rms, struct claas_error *err);
/* dx (+)= gradient of the above with the weight frozen, from the input x and inv_rms. dx may be dy (stored). */
int kernels_rmsnorm_backward(struct kernels *k, size_t m, size_t n, const float *x, size_t x_pitch,
                             const float *weight, const float *inv_rms, const float *dy, size_t dy_pitch,
                             float *dx, size_t dx_pitch, int accumulate, struct claas_error *err);

/* cos and sin [count][half]: of float32 angles (start + i) * inv_freq[j]; inv_freq on the device. Made once by the
 * caller for as many positions as it needs. */
int kernels_rope_table(struct kernels *k, size_t start, size_t count, size_t half, const float *inv_freq,
                       float *cos_table, float *sin_table, struct claas_error *err);
/* Half-split rotation, in place, of x[m][heads * 2*half]: row i stands at position start + i of the tables (whose row 0
 * is position 0). inverse != 0 rotates back, which is also the backward pass. */
int kernels_rope(struct kernels *k, size_t m, size_t heads, size_t half, size_t start, const float *cos_table,
                 const float *sin_table, float *x, size_t x_pitch, int inverse, struct claas_error *err);

/* y[i][j] = silu(gate[i][j]) * up[i][j]; gate and up usually are the halves of one buffer (same pitch). */
int kernels_swiglu(struct kernels *k, size_t m, size_t n, const float *gate, const float *up, size_t pitch,
                   float *y, size_t y_pitch, struct claas_error *err);
/* dgate and dup (stored, same pitch) from gate, up and dy; silu is recomputed. dgate = gate and dup = up allowed. */
int kernels_swiglu_backward(struct kernels *k, size_t m, size_t n, const float *gate, const float *up, size_t pitch,
                            const float *dy, size_t dy_pitch, float *dgate, float *dup, size_t d_pitch,
                            struct claas_error *err);

/* y[i][j] += alpha * x[i][j]: residual additions, bringing gradients together. y = x allowed. */
int kernels_add(struct kernels *k, size_t m, size_t n, float alpha, const float *x, size_t x_pitch,
                float *y, size_t y_pitch, struct claas_error *err);
/* x[i] *= alpha over a flat array. */
int kernels_scale(struct kernels *k, size_t n, float alpha, float *x, struct claas_error *err);

/* ---- attention ---- */

/* Causal, grouped-query. Query row i (i < rows) stands at position start + i and sees key and value rows 0 .. start + i.
 * Head h reads columns [h * head_dim, (h+1) * head_dim) of q and those of key-value head h / (heads / kv_heads) of k, v.
 * k and v have start + rows rows: a cache, or (start = 0) parts of the same fused Q, K, V buffer. */
struct kernels_attention {
    size_t rows;
    size_t start;
    size_t heads;
    size_t kv_heads; /* divides heads */
    size_t head_dim;
    float scale; /* usually 1 / sqrt(head_dim) */
    const float *q;
    size_t q_pitch;
    const float *k;
    size_t k_pitch;
    const float *v;
    size_t v_pitch;
};

/* o[rows][heads * head_dim]; lse[rows][heads] (no gaps) = log of the sum of exp(scale * q.k), kept for the backward
 * pass; null when not wanted. Only the lower triangle is computed. One row over a long cache uses all cores. */
int kernels_attention(struct kernels *k, const struct kernels_attention *a, float *o, size_t o_pitch, float *lse,
                      struct claas_error *err);
/* dq[rows][..], dk and dv[start + rows][kv_heads * head_dim], all stored. Scores are recomputed from q, k and lse; o is
 * the forward result. dq, dk, dv may be parts of one buffer but may not overlap q, k, v, o or d_o. */
int kernels_attention_backward(struct kernels *k, const struct kernels_attention *a, const float *o, size_t o_pitch,
                               const float *lse, const float *d_o, size_t do_pitch, float *dq, size_t dq_pitch,
                               float *dk, size_t dk_pitch, float *dv, size_t dv_pitch, struct claas_error *err);

/* ---- rows of logits ---- */

/* lse[i] = log(sum over j < n of exp(logits[i][j])), i < m. A row of -inf only gives -inf. */
int kernels_row_lse(struct kernels *k, size_t m, size_t n, const float *logits, size_t pitch, float *lse,
                    struct claas_error *err);
#define KERNELS_TOP_MAX 1024
/* The `top` (<= KERNELS_TOP_MAX, <= n) greatest of each row: ids and values [m][top], descending, of equal values the
 * lower id first; NaN counts as -inf. */
int kernels_row_top(struct kernels *k, size_t m, size_t n, const float *logits, size_t pitch, size_t top,
                    int32_t *ids, float *values, struct claas_error *err);
/* values[i][j] = logits[i][ids[i][j]], j < count; ids host, each in [0, n). The chosen token: count = 1. */
int kernels_row_pick(struct kernels *k, size_t m, size_t n, const float *logits, size_t pitch, size_t count,
                     const int32_t *ids, float *values, struct claas_error *err);
/* logits[i][j] becomes coef[i] * ([j == chosen[i]] - exp(logits[i][j] - lse[i])): the dense row gradient of
 * coef * log p(chosen), in place. chosen and coef: host. A row with coef 0 becomes zeros whatever it holds. */
int kernels_row_softmax_grad(struct kernels *k, size_t m, size_t n, float *logits, size_t pitch, const float *lse,
                             const int32_t *chosen, const float *coef, struct claas_error *err);

/* ---- optimiser, over flat arrays ---- */

struct kernels_adamw {
    double lr;
    double beta1;
    double beta2;
    double eps;
    double weight_decay; /* decoupled: theta *= 1 - lr * weight_decay first */
    double grad_scale;   /* g = grad_scale * grad: clipping and averaging in the same pass */
    uint64_t step;       /* 1 for the first update of these moments */
};
/* theta <- theta (1 - lr wd); mean <- b1 mean + (1 - b1) g; var <- b2 var + (1 - b2) g^2;
 * theta <- theta - lr (mean / (1 - b1^step)) / (sqrt(var) / sqrt(1 - b2^step) + eps), n elements. */
int kernels_adamw(struct kernels *k, size_t n, const struct kernels_adamw *settings, const float *grad,
                  float *theta, float *mean, float *var, struct claas_error *err);

/* Sum of squares in double: *out (host). */
int kernels_sum_squares(struct kernels *k, size_t n, const float *x, double *out, struct claas_error *err);
/* *out (host) = 1 when no element is NaN or infinite. */
int kernels_all_finite(struct kernels *k, size_t n, const float *x, int *out, struct claas_error *err);

#endif
