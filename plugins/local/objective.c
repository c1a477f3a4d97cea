/* SPDX-License-Identifier: MIT */
/* From a sample to values and gradients. Rows of logits exist for a chunk of response positions at a time. */
#include "config.h"

#include "plugins/local/objective.h"

#include "plugins/local/head.h"
#include "plugins/local/score.h"
#include "plugins/local/student.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FROZEN_CHUNK = 1024 }; /* tokens in one run of a pass without gradient: bounds its scratch */

static const double log_ratio_clamp = 20; /* of log ratios, as in SDPO: keeps exp() finite */

const char *const objective_names[] = { "sdpo", "cross_entropy", "importance_sampling", NULL };

enum objective_kind objective_kind(const char *name)
{
    size_t i = 0;
    while (i < OBJECTIVES && (!name || strcmp(name, objective_names[i]) != 0)) {
        i++;
    }
    return (enum objective_kind)i;
}

/* ---- passes without gradient ---- */

static int wants_rows(const struct claas_sample *sample)
{
    return objective_kind(sample->objective) == OBJECTIVE_SDPO && sample->n_top == 0;
}

static int wants_base(const struct train_settings *settings, const struct claas_sample *sample)
{
    return objective_kind(sample->objective) == OBJECTIVE_SDPO &&
           (settings->sdpo.kl_reg_weight > 0 || settings->report_kl_reg);
}

static uint64_t frozen_beats(const struct model *m, size_t n_prompt, size_t n_response)
{
    size_t n = n_prompt + n_response - 1;
    return (n + FROZEN_CHUNK - 1) / FROZEN_CHUNK * m->geometry.layers;
}

uint64_t objective_teach_beats(const struct model *m, const struct train_settings *settings,
                               const struct claas_sample *sample)
{
    uint64_t beats = 0;
    beats += wants_rows(sample) ? frozen_beats(m, sample->n_teacher, sample->n_response) : 0;
    beats += wants_base(settings, sample) ? frozen_beats(m, sample->n_prompt, sample->n_response) : 0;
    return beats;
}

uint64_t objective_learn_beats(const struct model *m)
{
    return 2 * m->geometry.layers;
}

static int frozen_pass(const struct model *m, const struct decode_score *job, struct pulse *pulse,
                       struct claas_error *err)
{
    const struct score score = { .job = *job, .chunk = FROZEN_CHUNK };
    struct forward_cache cache = { .model = m };
    int rc = score_run(m, &score, &cache, pulse, err);
    forward_cache_free(&cache);
    return rc;
}

static int teacher_pass(const struct model *m, const struct train_settings *settings,
                        const struct claas_sample *sample, struct pulse *pulse, struct objective_teacher *t,
                        struct claas_error *err)
{
    size_t vocab = m->geometry.vocab;
    size_t n = settings->teacher_top_k < vocab ? settings->teacher_top_k : vocab;
    size_t cells = n * sample->n_response;
    int32_t *ids = mem_array(cells, sizeof *ids + sizeof(float));
    if (!ids) {
        return err_oom(err, "the teacher's rows");
    }
    float *logprobs = (float *)(ids + cells);
    const struct decode_score job = { .prompt = sample->teacher, .n_prompt = sample->n_teacher,
                                      .response = sample->response, .n_response = sample->n_response, .n_top = n,
                                      .top_ids = ids, .top_logprobs = logprobs };
    t->owned = ids;
    t->n = n;
    t->ids = ids;
    t->logprobs = logprobs;
    return frozen_pass(m, &job, pulse, err);
}

static int base_pass(const struct model *m, const struct claas_sample *sample, struct pulse *pulse,
                     struct objective_teacher *t, struct claas_error *err)
{
    t->base = mem_array(sample->n_response, sizeof *t->base);
    if (!t->base) {
        return err_oom(err, "the base model's log-probabilities");
    }
    const struct decode_score job = { .prompt = sample->prompt, .n_prompt = sample->n_prompt,
                                      .response = sample->response, .n_response = sample->n_response,
                                      .logprobs = t->base };
    return frozen_pass(m, &job, pulse, err);
}

int objective_teach(const struct model *m, const struct train_settings *settings, const struct claas_sample *sample,
                    struct pulse *pulse, struct objective_teacher *out, struct claas_error *err)
{
    struct objective_teacher t = { 0 };
    int rc = 0;
    if (wants_rows(sample)) {
        rc = teacher_pass(m, settings, sample, pulse, &t, err);
    } else if (objective_kind(sample->objective) != OBJECTIVE_IMPORTANCE_SAMPLING) {
        t.n = sample->n_top;
        t.ids = sample->top_ids;
        t.logprobs = sample->top_logprobs;
    }
    if (!rc && wants_base(settings, sample)) {
        rc = base_pass(m, sample, pulse, &t, err);
    }
    if (rc) {
        objective_teacher_clear(&t);
        return rc;
    }
    *out = t;
    return 0;
}

void objective_teacher_clear(struct objective_teacher *t)
{
    free(t->owned);
    free(t->base);
    *t = (struct objective_teacher){ 0 };
}

/* ---- the loss of a chunk of rows ---- */

/* A sample being learnt from. Host arrays of a chunk; the gradient of its logits is coef on the teacher's ids, plus
 * dense * (onehot(pivot) - p). */
struct learning {
    const struct model *m;
    const struct train_settings *settings;
    const struct claas_sample *sample;
    const struct objective_teacher *teacher;
    enum objective_kind kind;
    double scale;
    size_t live;          /* response tokens that count, at least 1 */
    struct head head;
    float *lse;           /* [rows] */
    float *chosen_logits; /* [rows] */
    float *logits;        /* [rows][n] at the teacher's ids */
    float *coef;          /* [rows][n] */
    float *dense;         /* [rows] */
    int32_t *pivot;       /* [rows] */
    struct sdpo_sums sums; /* sdpo */
    double loss;           /* the others: not yet divided */
};

static int counts(const struct claas_sample *sample, size_t row)
{
    return !sample->mask || sample->mask[row];
}

static int rows_sdpo(struct learning *l, size_t first, size_t rows, struct claas_error *err)
{
    const struct claas_sample *s = l->sample;
    const struct sdpo_sample sample = { .rows = s->n_response, .n = l->teacher->n, .ids = l->teacher->ids,
                                        .teacher = l->teacher->logprobs, .chosen = s->response, .old = s->logprobs,
                                        .base = l->teacher->base, .mask = s->mask };
    memcpy(l->pivot, s->response + first, rows * sizeof *l->pivot);
    return sdpo_rows_loss(&l->settings->sdpo, &sample, first, rows, l->logits, l->lse, l->chosen_logits,
                          l->scale / (double)l->live, &l->sums, l->coef, l->dense, err);
}

static void rows_importance_sampling(struct learning *l, size_t first, size_t rows)
{
    const struct claas_sample *s = l->sample;
    for (size_t i = 0; i < rows; i++) {
        size_t at = first + i;
        double logprob = (double)l->chosen_logits[i] - (double)l->lse[i];
        double gap = fmin(fmax(logprob - (double)s->logprobs[at], -log_ratio_clamp), log_ratio_clamp);
        double term = counts(s, at) ? -exp(gap) * (double)s->advantages[at] : 0;
        l->loss += term;
        l->dense[i] = (float)(l->scale * term);
        l->pivot[i] = s->response[at];
    }
}

static void rows_hard_targets(struct learning *l, size_t first, size_t rows)
{
    const struct claas_sample *s = l->sample;
    double weight = l->scale / (double)l->live;
    for (size_t i = 0; i < rows; i++) {
        int live = counts(s, first + i);
        l->loss += live ? (double)l->lse[i] - (double)l->chosen_logits[i] : 0;
        l->dense[i] = live ? (float)-weight : 0;
        l->pivot[i] = s->response[first + i];
    }
}

/* d/dz of -sum q_k log p(k) is p - q: the pivot is the row's first id, whose onehot the coefficients take back. */
static void row_soft_targets(struct learning *l, size_t row, size_t i)
{
    size_t n = l->teacher->n;
    const float *q = l->teacher->logprobs + row * n;
    double weight = l->scale / (double)l->live;
    double top = (double)q[0]; /* rows need not be sorted */
    double sum = 0;
    for (size_t j = 1; j < n; j++) {
        top = fmax(top, (double)q[j]);
    }
    for (size_t j = 0; j < n; j++) {
        sum += exp((double)q[j] - top);
    }
    for (size_t j = 0; j < n; j++) {
        double share = exp((double)q[j] - top) / sum;
        l->loss += share * ((double)l->lse[i] - (double)l->logits[i * n + j]);
        l->coef[i * n + j] = (float)(weight * ((j == 0 ? 1 : 0) - share));
    }
    l->dense[i] = (float)-weight;
    l->pivot[i] = l->teacher->ids[row * n];
}

static void rows_soft_targets(struct learning *l, size_t first, size_t rows)
{
    size_t n = l->teacher->n;
    for (size_t i = 0; i < rows; i++) {
        if (counts(l->sample, first + i)) {
            row_soft_targets(l, first + i, i);
        } else {
            memset(l->coef + i * n, 0, n * sizeof *l->coef);
            l->dense[i] = 0;
            l->pivot[i] = l->sample->response[first + i];
        }
    }
}

static int rows_loss(struct learning *l, size_t first, size_t rows, struct claas_error *err)
{
    if (l->kind == OBJECTIVE_SDPO) {
        return rows_sdpo(l, first, rows, err);
    }
    if (l->kind == OBJECTIVE_IMPORTANCE_SAMPLING) {
        rows_importance_sampling(l, first, rows);
    } else if (l->teacher->n > 0) {
        rows_soft_targets(l, first, rows);
    } else {
        rows_hard_targets(l, first, rows);
    }
    return isfinite(l->loss) ? 0 : err_set(err, CLAAS_ERR_INTERNAL, NULL, "the loss is not finite");
}

static int any_dense(const struct learning *l, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        if (l->dense[i] != 0) {
            return 1;
        }
    }
    return 0;
}

/* d_hidden of the chunk from coef and dense; the logits are used up. */
static int rows_backward(struct learning *l, size_t first, size_t rows, float *d_hidden, struct claas_error *err)
{
    const struct model *m = l->m;
    struct kernels *k = m->kernels;
    size_t n = l->teacher->n;
    size_t vocab = m->geometry.vocab;
    int accumulate = n > 0;
    int rc = 0;
    if (n > 0) {
        rc = kernels_copy_in(k, l->head.coef, l->coef, rows * n * sizeof *l->coef, err);
        rc = rc ? rc : kernels_combine(k, m->output, rows, n, l->head.coef, l->teacher->ids + first * n, d_hidden,
                                       m->geometry.hidden, 0, err);
    }
    if (!rc && (!accumulate || any_dense(l, rows))) {
        rc = kernels_row_softmax_grad(k, rows, vocab, l->head.logits, vocab, l->head.lse, l->pivot, l->dense, err);
        rc = rc ? rc : kernels_linear_backward(k, m->output, rows, l->head.logits, vocab, d_hidden, m->geometry.hidden,
                                               accumulate, err);
    }
    return rc;
}

static int rows_learn(struct learning *l, struct student *student, size_t first, size_t rows, struct claas_error *err)
{
    size_t at = first * l->m->geometry.hidden;
    size_t n = l->teacher->n;
    int rc = head_logits(&l->head, student->hidden + at, rows, l->lse, err);
    rc = rc ? rc : head_pick(&l->head, rows, 1, l->sample->response + first, l->chosen_logits, err);
    if (!rc && n > 0) {
        rc = head_pick(&l->head, rows, n, l->teacher->ids + first * n, l->logits, err);
    }
    rc = rc ? rc : rows_loss(l, first, rows, err);
    return rc ? rc : rows_backward(l, first, rows, student->d_hidden + at, err);
}

/* ---- the whole sample ---- */

static int learning_open(struct learning *l, struct claas_error *err)
{
    size_t n = l->teacher->n;
    int rc = head_open(l->m, l->sample->n_response, n, &l->head, err);
    size_t rows = l->head.rows;
    l->lse = mem_array(rows, sizeof *l->lse);
    l->chosen_logits = mem_array(rows, sizeof *l->chosen_logits);
    l->dense = mem_array(rows, sizeof *l->dense);
    l->pivot = mem_array(rows, sizeof *l->pivot);
    l->logits = mem_array(rows * n, sizeof *l->logits);
    l->coef = mem_array(rows * n, sizeof *l->coef);
    if (!rc && (!l->lse || !l->chosen_logits || !l->dense || !l->pivot || !l->logits || !l->coef)) {
        rc = err_oom(err, "learning from a sample");
    }
    for (size_t i = 0; i < l->sample->n_response; i++) {
        l->live += (size_t)counts(l->sample, i);
    }
    l->live = l->live > 0 ? l->live : 1;
    return rc;
}

static void learning_close(struct learning *l)
{
    head_close(&l->head);
    free(l->lse);
    free(l->chosen_logits);
    free(l->dense);
    free(l->pivot);
    free(l->logits);
    free(l->coef);
}

static void learning_metrics(const struct learning *l, struct sdpo_metrics *out)
{
    if (l->kind == OBJECTIVE_SDPO) {
        sdpo_metrics(&l->settings->sdpo, &l->sums, l->teacher->base != NULL, out);
        return;
    }
    double divisor = l->kind == OBJECTIVE_IMPORTANCE_SAMPLING ? 1 : (double)l->live;
    *out = (struct sdpo_metrics){ .loss = l->loss / divisor, .distill_loss = (double)NAN, .kl_reg = (double)NAN,
                                  .mean_is_ratio = (double)NAN, .clip_fraction = (double)NAN };
}

/* Prompt and response without its last token, whose successor nobody predicts. */
static int student_ids(const struct claas_sample *s, int32_t **out, size_t *out_n, struct claas_error *err)
{
    size_t n = (size_t)s->n_prompt + s->n_response - 1;
    int32_t *ids = mem_array(n + 1, sizeof *ids);
    if (!ids) {
        return err_oom(err, "learning from a sample");
    }
    memcpy(ids, s->prompt, s->n_prompt * sizeof *ids);
    memcpy(ids + s->n_prompt, s->response, s->n_response * sizeof *ids);
    *out = ids;
    *out_n = n;
    return 0;
}

int objective_learn(const struct model *m, const struct lora *lora, const struct train_settings *settings,
                    const struct claas_sample *sample, const struct objective_teacher *teacher, double scale,
                    struct pulse *pulse, float *grad, struct sdpo_metrics *out, struct claas_error *err)
{
    struct learning l = { .m = m, .settings = settings, .sample = sample, .teacher = teacher,
                          .kind = objective_kind(sample->objective), .scale = scale };
    struct student student = { 0 };
    int32_t *ids = NULL;
    size_t n = 0;
    int rc = student_ids(sample, &ids, &n, err);
    rc = rc ? rc : student_open(m, lora, n, sample->n_response, settings->recompute, &student, err);
    rc = rc ? rc : student_forward(&student, ids, pulse, err);
    rc = rc ? rc : learning_open(&l, err);
    for (size_t i = 0; i < sample->n_response && !rc; i += l.head.rows) {
        size_t rows = sample->n_response - i < l.head.rows ? sample->n_response - i : l.head.rows;
        rc = rows_learn(&l, &student, i, rows, err);
    }
    learning_close(&l); /* its logits need not stay beside the backward pass */
    rc = rc ? rc : student_backward(&student, grad, pulse, err);
    student_close(&student);
    free(ids);
    if (!rc) {
        learning_metrics(&l, out);
    }
    return rc;
}
