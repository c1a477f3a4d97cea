/* SPDX-License-Identifier: MIT */
/* The transformer of plugins/local against the oracle: building it, and runs of tokens behind a cache. */
#include "config.h"

#include "unit/model_testing.h"

#define BOUND 2e-6

/* ---- building ---- */

struct tampered { /* a source that says something else about one tensor */
    struct model_source source;
    const struct oracle *oracle;
    enum model_part part;
    size_t layer;
    void (*tamper)(struct kernels_segment *segment);
    int refuse;
};

static int tampered_tensor(void *ctx, enum model_part part, size_t layer, struct kernels_segment *out,
                           struct claas_error *e)
{
    const struct tampered *t = ctx;
    int rc = t->oracle->source.tensor(t->oracle->source.ctx, part, layer, out, e);
    if (part == t->part && layer == t->layer) {
        if (t->refuse) {
            return err_set(e, CLAAS_ERR_NOT_FOUND, NULL, "no tensor 'blk.1.attn'");
        }
        t->tamper(out);
    }
    return rc;
}

static struct tampered tampered_source(const struct oracle *o, enum model_part part)
{
    return (struct tampered){ .source = { .geometry = o->spec.geometry, .tensor = tampered_tensor },
                              .oracle = o,
                              .part = part,
                              .layer = part < MODEL_ATTENTION_NORM ? 0 : 1 };
}

static void one_row_more(struct kernels_segment *s)
{
    s->rows++;
}

static void one_column_less(struct kernels_segment *s)
{
    s->cols--;
}

static void vanish(struct kernels_segment *s)
{
    *s = (struct kernels_segment){ 0 };
}

static void in_blocks(struct kernels_segment *s)
{
    s->type = KERNELS_Q4_0;
}

static void unknown_type(struct kernels_segment *s)
{
    s->type = KERNELS_TYPES;
}

static const char *const part_words[MODEL_PARTS] = {
    "embedding", "output matrix", "final norm",  "attention norm", "q_proj",      "k_proj",
    "v_proj",    "o_proj",        "MLP norm",    "gate_proj",      "up_proj",     "down_proj",
    "q_proj bias", "k_proj bias", "v_proj bias", "o_proj bias",
};

static void refused(struct tampered *t, int code, const char *words)
{
    struct model *m = NULL;
    t->source.ctx = t;
    err = ERR_INIT;
    ck_failed(model_create(k, &t->source, &m, &err), code, err);
    ck_assert_ptr_null(m);
    ck_assert_msg(strstr(err.message, words) != NULL, "'%s' does not name the %s", err.message, words);
    if (t->layer == 1) {
        ck_assert_msg(strstr(err.message, "layer 1") != NULL || t->refuse, "'%s' does not name the layer", err.message);
    }
}

/* Every tensor in turn has a wrong shape or type, is missing, or cannot be had. */
START_TEST(test_tensors_refused)
{
    static void (*const ways[])(struct kernels_segment *) = { one_row_more, one_column_less, in_blocks, unknown_type };
    device_open(2, 1);
    struct oracle_spec spec = spec_odd();
    spec.absent = 0;
    struct oracle *o = oracle_make(&spec);
    for (int part = 0; part < MODEL_PARTS; part++) {
        struct tampered t = tampered_source(o, (enum model_part)part);
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            t.tamper = ways[i];
            refused(&t, CLAAS_ERR_CORRUPT, part_words[part]);
        }
        if (part != MODEL_OUTPUT && part < MODEL_Q_BIAS) {
            t.tamper = vanish;
            refused(&t, CLAAS_ERR_CORRUPT, part_words[part]);
        }
        t.refuse = 1;
        refused(&t, CLAAS_ERR_NOT_FOUND, "no tensor 'blk.1.attn'");
    }
    oracle_free(o);
    device_close();
}
END_TEST

/* What may be absent, each by itself. */
START_TEST(test_optional_tensors)
{
    device_open(2, 1);
    struct oracle_spec spec = spec_odd();
    spec.absent = 0;
    struct oracle *o = oracle_make(&spec);
    for (int part = 0; part < MODEL_PARTS; part++) {
        struct tampered t = tampered_source(o, (enum model_part)part);
        struct model *m = NULL;
        if (part != MODEL_OUTPUT && part < MODEL_Q_BIAS) {
            continue;
        }
        t.tamper = vanish;
        t.source.ctx = &t;
        ck_ok(model_create(k, &t.source, &m, &err), err);
        ck_assert_int_eq(m->output == m->embedding, part == MODEL_OUTPUT);
        ck_assert_int_eq(m->layers[1].q_bias == NULL, part == MODEL_Q_BIAS);
        ck_assert_int_eq(m->layers[1].o_bias == NULL, part == MODEL_O_BIAS);
        ck_assert_ptr_nonnull(m->layers[1].kv_bias);
        model_free(m);
    }
    oracle_free(o);
    model_free(NULL);
    device_close();
}
END_TEST

static void geometry_refused(const struct model_geometry *g, const char *words)
{
    struct oracle_spec spec = spec_odd();
    struct oracle *o = oracle_make(&spec);
    struct model *m = NULL;
    o->source.geometry = *g;
    err = ERR_INIT;
    ck_failed(model_create(k, &o->source, &m, &err), CLAAS_ERR_INVALID, err);
    ck_assert_msg(strstr(err.message, words) != NULL, "'%s' lacks '%s'", err.message, words);
    ck_assert_ptr_null(m);
    oracle_free(o);
}

START_TEST(test_geometry_refused)
{
    device_open(2, 1);
    const struct model_geometry good = spec_odd().geometry;
    struct model_geometry g = good;
    size_t *const sizes[] = { &g.hidden,   &g.layers,       &g.heads, &g.kv_heads,
                              &g.head_dim, &g.intermediate, &g.vocab, &g.context };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        g = good;
        *sizes[i] = 0;
        geometry_refused(&g, "is 0");
        *sizes[i] = SIZE_MAX;
        geometry_refused(&g, "expected 1 to");
    }
    g = good;
    g.head_dim = 7;
    geometry_refused(&g, "head size 7");
    g = good;
    g.kv_heads = 2;
    geometry_refused(&g, "3 heads");
    g = good;
    g.eps = 0;
    geometry_refused(&g, "epsilon");
    g.eps = (double)NAN;
    geometry_refused(&g, "epsilon");
    g = good;
    g.rope.theta = -1;
    geometry_refused(&g, "rope_theta");
    g = spec_biased().geometry;
    g.rope.factor = (double)INFINITY;
    geometry_refused(&g, "factor");
    g = spec_wide().geometry;
    g.rope.high = g.rope.low;
    geometry_refused(&g, "llama3");
    device_close();
}
END_TEST

/* ---- runs ---- */

/* Lengths of the runs of a sequence: all at once, one by one, or mixed. */
static size_t run_length(int chunking, size_t i, size_t left)
{
    size_t n = chunking == 0 ? left : chunking == 1 ? 1 : 1 + rng_bits((uint64_t)chunking, 5, i) % 12;
    return n < left ? n : left;
}

struct sequence {
    const struct subject *subject;
    const int32_t *ids;
    size_t n;
    const double *want; /* [n][hidden] */
};

/* Appends what is left of the sequence in runs and checks the rows that each is asked for. */
static void check_runs(const struct sequence *s, struct forward_cache *cache, struct forward_space *space, int chunking)
{
    const struct subject *subject = s->subject;
    size_t hidden = subject->model->geometry.hidden;
    struct pulse pulse = { .kernels = k, .what = "testing" };
    for (size_t i = 0; cache->rows < s->n; i++) {
        const float *out = NULL;
        size_t at = cache->rows;
        size_t run = run_length(chunking, i, s->n - at);
        size_t wanted = chunking < 2 ? run : rng_bits(8, at, i) % (run + 1);
        uint64_t beats = pulse.done;
        ck_ok(forward_run(subject->model, subject->lora, cache, space, s->ids + at, run, wanted, &pulse, &out, &err),
              err);
        ck_assert_uint_eq(cache->rows, at + run);
        ck_assert_uint_eq(pulse.done - beats, subject->model->geometry.layers);
        if (wanted > 0) {
            check_close(out, s->want + (at + run - wanted) * hidden, wanted * hidden, BOUND, "hidden states");
        }
    }
}

static void check_chunkings(const struct subject *s, size_t n)
{
    int32_t *ids = random_ids(s, n, 1);
    double *want = wanted_hidden(s, ids, n);
    struct sequence sequence = { s, ids, n, want };
    struct forward_space space;
    ck_ok(forward_space_open(s->model, n, s->lora ? s->lora->spec.rank : 0, &space, &err), err);
    for (int chunking = 0; chunking < 6; chunking++) {
        struct forward_cache cache = { .model = s->model };
        check_runs(&sequence, &cache, &space, chunking);
        forward_cache_free(&cache);
    }
    forward_space_close(&space);
    free(ids);
    free(want);
}

static const struct {
    uint32_t modules;
    size_t rank;
} adapters[] = {
    { 0, 0 },
    { LORA_ALL, 3 },
    { 1U << LORA_Q | 1U << LORA_V, 8 },
    { 1U << LORA_K | 1U << LORA_UP | 1U << LORA_DOWN, 1 },
    { 1U << LORA_O | 1U << LORA_GATE, 5 },
};
#define ADAPTERS ((int)(sizeof adapters / sizeof adapters[0]))

/* Each instruction set, each shape, base and adapters. */
START_TEST(test_runs)
{
    device_open(_i % ISAS, 2);
    for (int a = 0; a < ADAPTERS; a++) {
        struct oracle_spec spec = spec_at(_i / ISAS);
        struct subject s = subject_make(&spec, adapters[a].modules, adapters[a].rank);
        check_chunkings(&s, 41);
        subject_free(&s);
    }
    device_close();
}
END_TEST

/* One layer, one position, and as many as the context has. */
START_TEST(test_extremes)
{
    device_open(_i, 2);
    struct oracle_spec spec = spec_wide();
    spec.geometry.layers = 1;
    struct subject s = subject_make(&spec, LORA_ALL, 2);
    check_chunkings(&s, 1);
    check_chunkings(&s, spec.geometry.context);
    subject_free(&s);
    device_close();
}
END_TEST

/* The tail of a cache is forgotten and another one put in its place, also where the memory has to grow. */
START_TEST(test_cache_lowered)
{
    device_open(2, 2);
    struct oracle_spec spec = spec_odd();
    spec.geometry.context = 700;
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    int32_t *ids = random_ids(&s, 600, 3);
    struct forward_space space;
    struct forward_cache cache = { .model = s.model };
    ck_ok(forward_space_open(s.model, 64, 3, &space, &err), err);
    static const size_t cuts[][2] = { { 0, 200 }, { 120, 250 }, { 250, 300 }, { 1, 40 }, { 30, 590 } };
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        size_t keep = cuts[i][0];
        size_t n = cuts[i][1];
        int32_t *other = random_ids(&s, n, 10 + i);
        memcpy(ids + keep, other + keep, (n - keep) * sizeof *ids);
        double *want = wanted_hidden(&s, ids, n);
        struct sequence sequence = { &s, ids, n, want };
        ck_assert_uint_ge(cache.rows, keep);
        cache.rows = keep;
        check_runs(&sequence, &cache, &space, 3);
        free(other);
        free(want);
    }
    forward_cache_free(&cache);
    ck_assert_uint_eq(cache.rows, 0);
    forward_space_close(&space);
    free(ids);
    subject_free(&s);
    device_close();
}
END_TEST

/* A run that does not fit, has an id that is none, or is called off leaves the cache as it was. */
START_TEST(test_failed_runs)
{
    device_open(2, 2);
    struct oracle_spec spec = spec_biased();
    spec.geometry.layers = 3;
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    size_t n = spec.geometry.context;
    int32_t *ids = random_ids(&s, n + 1, 4);
    double *want = wanted_hidden(&s, ids, n);
    struct sequence sequence = { &s, ids, n, want };
    struct forward_space space;
    struct forward_cache cache = { .model = s.model };
    struct pulse pulse = { .kernels = k, .what = "testing" };
    const float *out = NULL;
    ck_ok(forward_space_open(s.model, n + 1, 3, &space, &err), err);
    ck_failed(forward_run(s.model, s.lora, &cache, &space, ids, n + 1, 1, &pulse, &out, &err), CLAAS_ERR_INVALID, err);
    ck_assert_uint_eq(cache.rows, 0);
    ck_ok(forward_run(s.model, s.lora, &cache, &space, ids, 20, 0, &pulse, &out, &err), err);
    ck_failed(forward_run(s.model, s.lora, &cache, &space, ids, n - 19, 1, &pulse, &out, &err), CLAAS_ERR_INVALID, err);
    ck_failed(forward_run(s.model, s.lora, &cache, &space, ids, SIZE_MAX, 1, &pulse, &out, &err), CLAAS_ERR_INVALID,
              err);
    for (int beats = 0; beats < 3; beats++) {
        struct timed_call t = timed(beats);
        pulse.call = &t.call;
        err = ERR_INIT;
        ck_failed(forward_run(s.model, s.lora, &cache, &space, ids + 1, 9, 9, &pulse, &out, &err), CLAAS_ERR_CANCELLED,
                  err);
        ck_assert_uint_eq(cache.rows, 20);
    }
    pulse.call = NULL;
    int32_t kept = ids[25];
    static const int32_t bad[] = { -1, 37, INT32_MAX, INT32_MIN };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ids[25] = bad[i];
        ck_failed(forward_run(s.model, s.lora, &cache, &space, ids + 20, 9, 1, &pulse, &out, &err), CLAAS_ERR_INVALID,
                  err);
    }
    ids[25] = kept;
    check_runs(&sequence, &cache, &space, 2);
    forward_cache_free(&cache);
    forward_space_close(&space);
    free(ids);
    free(want);
    subject_free(&s);
    device_close();
}
END_TEST

/* The caller is told of each layer. */
static uint64_t told;

static void tell(const struct claas_call *call, uint64_t done, uint64_t total, const char *what)
{
    (void)call;
    told++;
    ck_assert_uint_eq(done, told < 5 ? told : 5);
    ck_assert_uint_eq(total, 5);
    ck_assert_str_eq(what, "layers");
}

START_TEST(test_progress)
{
    device_open(2, 1);
    struct oracle_spec spec = spec_odd();
    struct subject s = subject_make(&spec, 0, 0);
    struct claas_call call = { .size = sizeof call, .progress = tell };
    struct pulse pulse = { .kernels = k, .call = &call, .total = 5, .what = "layers" };
    struct forward_cache cache = { .model = s.model };
    struct forward_space space;
    const float *out = NULL;
    int32_t *ids = random_ids(&s, 6, 4);
    told = 0;
    ck_ok(forward_space_open(s.model, 2, 0, &space, &err), err);
    for (size_t i = 0; i < 3; i++) {
        ck_ok(forward_run(s.model, NULL, &cache, &space, ids + 2 * i, 2, 1, &pulse, &out, &err), err);
    }
    ck_assert_uint_eq(told, 6);
    free(ids);
    forward_cache_free(&cache);
    forward_space_close(&space);
    subject_free(&s);
    device_close();
}
END_TEST

/* ---- threads ---- */

/* Large enough to be cut among threads: hidden states of a run and of a single token behind it, copied to out. */
static void run_on_threads(int isa, size_t threads, float *out)
{
    enum { N = 80 };
    device_open(isa, threads);
    struct oracle_spec spec = spec_blocks();
    spec.geometry.context = 128;
    spec.geometry.hidden = 192;
    spec.geometry.intermediate = 352;
    spec.geometry.vocab = 300;
    struct subject s = subject_make(&spec, LORA_ALL, 8);
    int32_t *ids = random_ids(&s, N + 1, 2);
    struct forward_cache cache = { .model = s.model };
    struct forward_space space;
    struct pulse pulse = { .kernels = k, .what = "testing" };
    const float *hidden = NULL;
    ck_ok(forward_space_open(s.model, N, 8, &space, &err), err);
    ck_ok(forward_run(s.model, s.lora, &cache, &space, ids, N, N, &pulse, &hidden, &err), err);
    memcpy(out, hidden, N * spec.geometry.hidden * sizeof *out);
    ck_ok(forward_run(s.model, s.lora, &cache, &space, ids + N, 1, 1, &pulse, &hidden, &err), err);
    memcpy(out + N * spec.geometry.hidden, hidden, spec.geometry.hidden * sizeof *out);
    double *want = wanted_hidden(&s, ids, N + 1);
    check_close(out, want, (N + 1) * spec.geometry.hidden, BOUND, "hidden states");
    forward_cache_free(&cache);
    forward_space_close(&space);
    free(want);
    free(ids);
    subject_free(&s);
    device_close();
}

START_TEST(test_threads)
{
    enum { FLOATS = 81 * 192 };
    static float one[FLOATS];
    static float many[FLOATS];
    run_on_threads(_i, 1, one);
    for (size_t threads = 2; threads < 4; threads++) {
        run_on_threads(_i, threads, many);
        ck_assert_msg(memcmp(one, many, sizeof one) == 0, "other bytes with %zu threads", threads);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_model");
    TCase *t = tcase_create("building");
    tcase_add_test(t, test_tensors_refused);
    tcase_add_test(t, test_optional_tensors);
    tcase_add_test(t, test_geometry_refused);
    suite_add_tcase(s, t);
    t = tcase_create("runs");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, test_runs, 0, ISAS * SPECS);
    tcase_add_loop_test(t, test_extremes, 0, ISAS);
    tcase_add_test(t, test_cache_lowered);
    tcase_add_test(t, test_failed_runs);
    tcase_add_test(t, test_progress);
    tcase_add_loop_test(t, test_threads, 0, ISAS);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
