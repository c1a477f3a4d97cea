/* SPDX-License-Identifier: MIT */
/* The table of an adapter: names, order, shapes, places; its first values; what is refused. */
#include "config.h"

#include "plugins/local/lora.h"
#include "unit/kernels_testing.h"

#include "base/mem.h"

static const struct model_geometry tiny = { .hidden = 12, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 4,
                                            .intermediate = 20, .vocab = 32, .context = 16, .eps = 1e-5,
                                            .rope = { .kind = ROPE_PLAIN, .theta = 1e4 } };

static struct lora *make(uint32_t modules, size_t rank)
{
    const struct lora_spec spec = { .modules = modules, .rank = rank, .alpha = 6 };
    struct lora *lora = NULL;
    err = ERR_INIT;
    ck_ok(lora_create(k, &tiny, &spec, &lora, &err), err);
    return lora;
}

static void setup(void)
{
    device_open(0, 1);
}

static void teardown(void)
{
    device_close();
}

/* ---- the table ---- */

struct expected {
    const char *name; /* behind "base_model.model.model.layers.L." and before ".weight" */
    size_t rows;
    size_t cols;
};

static const struct expected all_modules[] = {
    { "self_attn.q_proj.lora_A", 3, 12 }, { "self_attn.q_proj.lora_B", 16, 3 }, { "self_attn.k_proj.lora_A", 3, 12 },
    { "self_attn.v_proj.lora_A", 3, 12 }, { "self_attn.k_proj.lora_B", 8, 3 },  { "self_attn.v_proj.lora_B", 8, 3 },
    { "self_attn.o_proj.lora_A", 3, 16 }, { "self_attn.o_proj.lora_B", 12, 3 }, { "mlp.gate_proj.lora_A", 3, 12 },
    { "mlp.up_proj.lora_A", 3, 12 },      { "mlp.gate_proj.lora_B", 20, 3 },    { "mlp.up_proj.lora_B", 20, 3 },
    { "mlp.down_proj.lora_A", 3, 20 },    { "mlp.down_proj.lora_B", 12, 3 },
};

static const struct expected some_modules[] = {
    { "self_attn.v_proj.lora_A", 3, 12 }, { "self_attn.v_proj.lora_B", 8, 3 }, { "mlp.up_proj.lora_A", 3, 12 },
    { "mlp.up_proj.lora_B", 20, 3 },      { "mlp.down_proj.lora_A", 3, 20 },   { "mlp.down_proj.lora_B", 12, 3 },
};

static const struct expected two_modules[] = {
    { "self_attn.q_proj.lora_A", 3, 12 }, { "self_attn.q_proj.lora_B", 16, 3 },
    { "self_attn.v_proj.lora_A", 3, 12 }, { "self_attn.v_proj.lora_B", 8, 3 },
};

static const struct {
    uint32_t modules;
    const struct expected *tensors;
    size_t n;
} tables[] = {
    { LORA_ALL, all_modules, sizeof all_modules / sizeof all_modules[0] },
    { 1 << LORA_V | 1 << LORA_UP | 1 << LORA_DOWN, some_modules, sizeof some_modules / sizeof some_modules[0] },
    { 1 << LORA_Q | 1 << LORA_V, two_modules, sizeof two_modules / sizeof two_modules[0] },
};

START_TEST(names_order_and_shapes)
{
    size_t n = tables[_i].n;
    size_t offset = 0;
    struct lora *lora = make(tables[_i].modules, 3);
    ck_assert_uint_eq(lora->n_tensors, 2 * n);
    for (size_t i = 0; i < 2 * n; i++) {
        char name[LORA_NAME_CAP];
        const struct expected *e = &tables[_i].tensors[i % n];
        const struct lora_tensor *t = &lora->tensors[i];
        (void)snprintf(name, sizeof name, "base_model.model.model.layers.%zu.%s.weight", i / n, e->name);
        ck_assert_str_eq(t->name, name);
        ck_assert_uint_eq(t->rows, e->rows);
        ck_assert_uint_eq(t->cols, e->cols);
        ck_assert_uint_eq(t->offset, offset); /* no gaps, no overlap */
        ck_assert_uint_eq(lora_find(lora, name), i);
        offset += t->rows * t->cols;
    }
    ck_assert_uint_eq(lora->n, offset);
    ck_assert_uint_eq(lora_find(lora, "base_model.model.model.layers.2.self_attn.v_proj.lora_A.weight"), SIZE_MAX);
    ck_assert_uint_eq(lora_find(lora, ""), SIZE_MAX);
    lora_free(lora);
}
END_TEST

START_TEST(places_agree_with_the_table)
{
    struct lora *lora = make(tables[_i].modules, 3);
    size_t found = 0;
    for (size_t layer = 0; layer < tiny.layers; layer++) {
        for (int m = 0; m < LORA_MODULES; m++) {
            enum lora_module module = (enum lora_module)m;
            int wanted = (tables[_i].modules >> m & 1) != 0;
            ck_assert_int_eq(lora_has(lora, module), wanted);
            for (int b = 0; b < 2; b++) {
                char name[LORA_NAME_CAP];
                const float *at = b ? lora_b(lora, lora->flat, layer, module) : lora_a(lora, lora->flat, layer, module);
                (void)snprintf(name, sizeof name, "base_model.model.model.layers.%zu.%s.%s.lora_%c.weight", layer,
                               m < LORA_GATE ? "self_attn" : "mlp", lora_module_name(module), b ? 'B' : 'A');
                size_t i = lora_find(lora, name);
                ck_assert_int_eq(i != SIZE_MAX, wanted);
                ck_assert_ptr_eq(at, wanted ? lora->flat + lora->tensors[i].offset : NULL);
                found += at != NULL;
            }
        }
    }
    ck_assert_uint_eq(found, lora->n_tensors);
    lora_free(lora);
}
END_TEST

START_TEST(the_longest_name_fits)
{
    struct model_geometry deep = tiny;
    deep.layers = 1024;
    const struct lora_spec spec = { .modules = LORA_ALL, .rank = 1, .alpha = 1 };
    struct lora *lora = NULL;
    ck_ok(lora_create(k, &deep, &spec, &lora, &err), err);
    ck_assert_uint_ne(lora_find(lora, "base_model.model.model.layers.1023.self_attn.q_proj.lora_A.weight"), SIZE_MAX);
    ck_assert_str_eq(lora->tensors[lora->n_tensors - 1].name,
                     "base_model.model.model.layers.1023.mlp.down_proj.lora_B.weight");
    lora_free(lora);
}
END_TEST

START_TEST(scaling)
{
    struct lora_spec spec = { .modules = LORA_ALL, .rank = 16, .alpha = 24 };
    struct lora *lora = NULL;
    ck_ok(lora_create(k, &tiny, &spec, &lora, &err), err);
    ck_assert_float_eq(lora->scaling, 1.5f);
    lora_free(lora);
    spec.rank_stable = 1;
    ck_ok(lora_create(k, &tiny, &spec, &lora, &err), err);
    ck_assert_float_eq(lora->scaling, 6);
    lora_free(lora);
}
END_TEST

/* ---- first values ---- */

static void init(struct lora *lora, uint64_t seed)
{
    ck_ok(lora_init(lora, seed, &err), err);
}

static float *flat_of(const struct lora *lora)
{
    float *out = mem_array(lora->n, sizeof *out);
    ck_ok(kernels_copy_out(k, out, lora->flat, lora->n * sizeof *out, &err), err);
    return out;
}

START_TEST(a_new_adapter_is_zero)
{
    struct lora *lora = make(LORA_ALL, 5);
    float *flat = flat_of(lora);
    for (size_t i = 0; i < lora->n; i++) {
        ck_assert_float_eq(flat[i], 0);
    }
    free(flat);
    lora_free(lora);
}
END_TEST

/* A fills its interval on both sides with the variance of a uniform; B stays zero, also where it was not. */
START_TEST(first_values)
{
    struct lora *lora = make(LORA_ALL, LORA_MAX_RANK);
    float *host = mem_array(lora->n, sizeof *host);
    for (size_t i = 0; i < lora->n; i++) {
        host[i] = 1;
    }
    ck_ok(kernels_copy_in(k, lora->flat, host, lora->n * sizeof *host, &err), err);
    init(lora, 11);
    for (size_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        double bound = strstr(t->name, "lora_A") ? 1 / sqrt((double)t->cols) : 0;
        double squares = 0;
        double sum = 0;
        double most = 0;
        double n = (double)(t->rows * t->cols);
        ck_ok(lora_read(lora, i, host, &err), err);
        for (size_t j = 0; j < t->rows * t->cols; j++) {
            double x = (double)host[j];
            sum += x;
            squares += x * x;
            most = fmax(most, fabs(x));
        }
        ck_assert_msg(most <= bound * (1 + 1e-6), "%s reaches %g, bound %g", t->name, most, bound);
        ck_assert_msg(most >= 0.99 * bound, "%s reaches only %g of %g", t->name, most, bound);
        ck_assert_double_le(fabs(squares / n - bound * bound / 3), 0.05 * bound * bound);
        ck_assert_double_le(fabs(sum / n), 0.05 * bound);
    }
    free(host);
    lora_free(lora);
}
END_TEST

START_TEST(seeds)
{
    struct lora *lora = make(LORA_ALL, 4);
    struct lora *other = make(LORA_ALL, 4);
    init(lora, 1);
    init(other, 1);
    float *one = flat_of(lora);
    float *again = flat_of(other);
    ck_assert_mem_eq(one, again, lora->n * sizeof *one);
    init(other, 2);
    float *two = flat_of(other);
    size_t same = 0;
    for (size_t i = 0; i < lora->n; i++) {
        same += one[i] == two[i] && one[i] != 0;
    }
    ck_assert_uint_eq(same, 0);
    /* tensors of one adapter differ, too: the A of q and k have the same shape */
    const float *q = one + (lora_a(lora, lora->flat, 0, LORA_Q) - lora->flat);
    const float *key = one + (lora_a(lora, lora->flat, 0, LORA_K) - lora->flat);
    ck_assert_mem_ne(q, key, 4 * tiny.hidden * sizeof *q);
    free(one);
    free(again);
    free(two);
    lora_free(lora);
    lora_free(other);
}
END_TEST

START_TEST(clones_are_independent)
{
    struct lora *lora = make(1 << LORA_O | 1 << LORA_GATE, 4);
    struct lora *copy = NULL;
    init(lora, 3);
    ck_ok(lora_clone(lora, &copy, &err), err);
    float *before = flat_of(lora);
    init(lora, 4);
    float *after = flat_of(copy);
    ck_assert_uint_eq(copy->n, lora->n);
    ck_assert_mem_eq(before, after, lora->n * sizeof *before);
    ck_assert_float_eq(copy->scaling, lora->scaling);
    ck_assert_uint_eq(copy->spec.modules, lora->spec.modules);
    lora_free(lora); /* the copy has its own table */
    ck_assert_str_eq(copy->tensors[0].name, "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight");
    free(before);
    free(after);
    lora_free(copy);
    lora_free(NULL);
}
END_TEST

/* ---- tensors in and out ---- */

START_TEST(tensors_are_read_and_written)
{
    struct lora *lora = make(1 << LORA_K | 1 << LORA_V, 2);
    size_t i = lora_find(lora, "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight");
    const struct lora_tensor *t = &lora->tensors[i];
    float host[16];
    float back[16];
    ck_assert_uint_eq(t->rows * t->cols, 16);
    for (size_t j = 0; j < 16; j++) {
        host[j] = (float)j + 1;
    }
    ck_ok(lora_write(lora, i, host, &err), err);
    ck_ok(lora_read(lora, i, back, &err), err);
    ck_assert_mem_eq(host, back, sizeof host);
    float *flat = flat_of(lora);
    for (size_t j = 0; j < lora->n; j++) {
        int inside = j >= t->offset && j < t->offset + 16;
        ck_assert_float_eq(flat[j], inside ? host[j - t->offset] : 0);
    }
    free(flat);
    lora_free(lora);
}
END_TEST

START_TEST(values_that_are_not_finite_are_refused)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    struct lora *lora = make(1 << LORA_Q, 1);
    float host[12] = { 0 };
    for (size_t i = 0; i < 3; i++) {
        host[0] = 1;
        host[11] = bad[i];
        err = ERR_INIT;
        ck_failed(lora_write(lora, 0, host, &err), CLAAS_ERR_INVALID, err);
        ck_assert_ptr_nonnull(strstr(err.message, lora->tensors[0].name));
        ck_ok(lora_read(lora, 0, host, &err), err);
        ck_assert_float_eq(host[0], 0); /* nothing of it was written */
    }
    lora_free(lora);
}
END_TEST

/* ---- what is refused ---- */

START_TEST(specs_refused)
{
    static const struct {
        struct lora_spec spec;
        const char *what;
    } bad[] = {
        { { LORA_ALL, 0, 1, 0 }, "lora_r" },
        { { LORA_ALL, LORA_MAX_RANK + 1, 1, 0 }, "lora_r" },
        { { LORA_ALL, SIZE_MAX, 1, 0 }, "lora_r" },
        { { LORA_ALL, 8, 0, 0 }, "lora_alpha" },
        { { LORA_ALL, 8, -1, 0 }, "lora_alpha" },
        { { LORA_ALL, 8, (double)NAN, 0 }, "lora_alpha" },
        { { LORA_ALL, 8, (double)INFINITY, 0 }, "lora_alpha" },
        { { 0, 8, 1, 0 }, "target_modules" },
        { { 1 << LORA_MODULES, 8, 1, 0 }, "target_modules" },
        { { LORA_ALL | 1 << LORA_MODULES, 8, 1, 0 }, "target_modules" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct lora *lora = NULL;
        err = ERR_INIT;
        ck_failed(lora_create(k, &tiny, &bad[i].spec, &lora, &err), CLAAS_ERR_INVALID, err);
        ck_assert_str_eq(err.what, bad[i].what);
        ck_assert_ptr_null(lora);
    }
}
END_TEST

START_TEST(ranks_at_the_limits)
{
    static const size_t ranks[] = { 1, LORA_MAX_RANK };
    for (size_t i = 0; i < 2; i++) {
        struct lora *lora = make(1 << LORA_Q, ranks[i]);
        ck_assert_uint_eq(lora->tensors[0].rows, ranks[i]);
        ck_assert_uint_eq(lora->tensors[1].cols, ranks[i]);
        lora_free(lora);
    }
}
END_TEST

START_TEST(a_geometry_that_cannot_be_is_refused)
{
    struct model_geometry bad = tiny;
    const struct lora_spec spec = { .modules = LORA_ALL, .rank = 8, .alpha = 8 };
    struct lora *lora = NULL;
    bad.kv_heads = 3;
    err = ERR_INIT;
    ck_failed(lora_create(k, &bad, &spec, &lora, &err), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_null(lora);
}
END_TEST

START_TEST(modules_by_name)
{
    static const char *const names[] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" };
    static const char *const twice[] = { "up_proj", "q_proj", "up_proj" };
    uint32_t modules = 0;
    ck_ok(lora_modules_parse(names, LORA_MODULES, &modules, &err), err);
    ck_assert_uint_eq(modules, LORA_ALL);
    ck_ok(lora_modules_parse(twice, 3, &modules, &err), err);
    ck_assert_uint_eq(modules, 1 << LORA_UP | 1 << LORA_Q);
    for (int m = 0; m < LORA_MODULES; m++) {
        ck_assert_str_eq(lora_module_name((enum lora_module)m), names[m]);
    }
    ck_assert_ptr_null(lora_module_name(LORA_MODULES));
}
END_TEST

START_TEST(unknown_modules_are_refused)
{
    static const char *const bad[] = { "lm_head", "q_pro", "q_projx", "Q_proj", "", "self_attn.q_proj" };
    uint32_t modules = 42;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *const names[] = { "q_proj", bad[i] };
        err = ERR_INIT;
        ck_failed(lora_modules_parse(names, 2, &modules, &err), CLAAS_ERR_INVALID, err);
        ck_assert_str_eq(err.what, "target_modules");
        ck_assert_ptr_nonnull(strstr(err.message, bad[i]));
    }
    err = ERR_INIT;
    ck_failed(lora_modules_parse(NULL, 0, &modules, &err), CLAAS_ERR_INVALID, err);
    ck_assert_uint_eq(modules, 42);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_lora");
    TCase *t = tcase_create("lora");
    int n_tables = sizeof tables / sizeof tables[0];
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, names_order_and_shapes, 0, n_tables);
    tcase_add_loop_test(t, places_agree_with_the_table, 0, n_tables);
    tcase_add_test(t, the_longest_name_fits);
    tcase_add_test(t, scaling);
    tcase_add_test(t, a_new_adapter_is_zero);
    tcase_add_test(t, first_values);
    tcase_add_test(t, seeds);
    tcase_add_test(t, clones_are_independent);
    tcase_add_test(t, tensors_are_read_and_written);
    tcase_add_test(t, values_that_are_not_finite_are_refused);
    tcase_add_test(t, specs_refused);
    tcase_add_test(t, ranks_at_the_limits);
    tcase_add_test(t, a_geometry_that_cannot_be_is_refused);
    tcase_add_test(t, modules_by_name);
    tcase_add_test(t, unknown_modules_are_refused);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
