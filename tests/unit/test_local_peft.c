/* SPDX-License-Identifier: MIT */
/* Files of adapters and of moments: what is written is read back, byte for byte; what cannot be honoured is refused. */
#include "config.h"

#include "unit/kernels_testing.h"

#include "file_maker.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "plugins/local/moments.h"
#include "plugins/local/peft.h"
#include "plugins/local/safetensors.h"

static const struct model_geometry tiny = { .hidden = 6, .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 4,
                                            .intermediate = 5, .vocab = 32, .context = 16, .eps = 1e-5,
                                            .rope = { .kind = ROPE_PLAIN, .theta = 1e4 } };

static char *dir;
static char *weights_path;
static char *config_path;
static char *moments_path;

static void setup(void)
{
    device_open(0, 1);
    dir = file_temp_dir();
    weights_path = file_path(dir, PEFT_WEIGHTS);
    config_path = file_path(dir, PEFT_CONFIG);
    moments_path = file_path(dir, MOMENTS_FILE);
}

static void teardown(void)
{
    ck_ok(dir_remove(dir, &err), err);
    free(dir);
    free(weights_path);
    free(config_path);
    free(moments_path);
    device_close();
}

/* ---- where versions are written to ---- */

enum { FILES = 3 };

struct store {
    struct claas_out abi; /* first: what the writers get */
    char names[FILES][64];
    uint32_t roles[FILES];
    struct buf data[FILES];
    size_t n;
    size_t room; /* bytes until the disk is full */
};

static int store_write(struct claas_out *out, const char *name, uint32_t roles, const void *data, size_t n,
                       struct claas_error *error)
{
    struct store *s = (struct store *)out;
    size_t i = 0;
    while (i < s->n && strcmp(s->names[i], name) != 0) {
        i++;
    }
    if (n > s->room) {
        return err_set(error, CLAAS_ERR_EXHAUSTED, name, "cannot write '%s': the disk is full", name);
    }
    s->room -= n;
    ck_assert_uint_lt(i, FILES);
    if (i == s->n) {
        (void)snprintf(s->names[s->n++], sizeof s->names[0], "%s", name);
        s->roles[i] = roles;
    }
    ck_assert_uint_eq(s->roles[i], roles);
    buf_add(&s->data[i], data, n);
    return 0;
}

static struct store store_new(void)
{
    return (struct store){ .abi = { .size = sizeof(struct claas_out), .write = store_write }, .room = SIZE_MAX };
}

static void store_clear(struct store *s)
{
    for (size_t i = 0; i < FILES; i++) {
        buf_clear(&s->data[i]);
    }
}

static void store_save(const struct store *s)
{
    for (size_t i = 0; i < s->n; i++) {
        char *path = file_path(dir, s->names[i]);
        file_save(path, s->data[i].data, s->data[i].len);
        free(path);
    }
}

static struct lora *adapter(uint32_t modules, size_t rank)
{
    const struct lora_spec spec = { .modules = modules, .rank = rank, .alpha = 2.5 };
    struct lora *lora = NULL;
    err = ERR_INIT;
    ck_ok(lora_create(k, &tiny, &spec, &lora, &err), err);
    ck_ok(lora_init(lora, 7, &err), err);
    for (size_t i = 1; i < lora->n; i += 3) { /* so that B is not zero */
        lora->flat[i] = (float)i;
    }
    return lora;
}

static void write_adapter(const struct lora *lora)
{
    struct store s = store_new();
    ck_ok(peft_write(lora, "base/model", &s.abi, &err), err);
    store_save(&s);
    store_clear(&s);
}

static int read_adapter(struct lora **out)
{
    err = ERR_INIT;
    return peft_read(k, &tiny, weights_path, config_path, out, &err);
}

/* ---- adapters ---- */

static const uint32_t subsets[] = { LORA_ALL, 1 << LORA_Q, 1 << LORA_V | 1 << LORA_UP | 1 << LORA_DOWN };

START_TEST(written_is_read)
{
    struct lora *lora = adapter(subsets[_i], 3);
    struct lora *back = NULL;
    struct store s = store_new();
    struct store again = store_new();
    ck_ok(peft_write(lora, "base/model", &s.abi, &err), err);
    ck_assert_uint_eq(s.n, 2);
    ck_assert_uint_eq(s.roles[0], CLAAS_SERVE);
    ck_assert_uint_eq(s.roles[1], CLAAS_SERVE);
    store_save(&s);
    ck_ok(read_adapter(&back), err);
    ck_assert_uint_eq(back->spec.modules, subsets[_i]);
    ck_assert_uint_eq(back->spec.rank, 3);
    ck_assert_double_eq(back->spec.alpha, 2.5);
    ck_assert_int_eq(back->spec.rank_stable, 0);
    ck_assert_uint_eq(back->n, lora->n);
    ck_assert_mem_eq(back->flat, lora->flat, lora->n * sizeof *lora->flat);
    ck_ok(peft_write(back, "base/model", &again.abi, &err), err);
    for (size_t i = 0; i < 2; i++) {
        ck_assert_uint_eq(s.data[i].len, again.data[i].len);
        ck_assert_mem_eq(s.data[i].data, again.data[i].data, s.data[i].len);
    }
    store_clear(&s);
    store_clear(&again);
    lora_free(lora);
    lora_free(back);
}
END_TEST

START_TEST(rank_stable_scaling_is_kept)
{
    const struct lora_spec spec = { .modules = LORA_ALL, .rank = 4, .alpha = 6, .rank_stable = 1 };
    struct lora *lora = NULL;
    struct lora *back = NULL;
    ck_ok(lora_create(k, &tiny, &spec, &lora, &err), err);
    write_adapter(lora);
    ck_ok(read_adapter(&back), err);
    ck_assert_int_eq(back->spec.rank_stable, 1);
    ck_assert_float_eq(back->scaling, 3);
    lora_free(lora);
    lora_free(back);
}
END_TEST

/* As a reader that is not ours sees them. */
START_TEST(the_files_are_those_of_peft)
{
    struct lora *lora = adapter(1 << LORA_Q | 1 << LORA_DOWN, 2);
    struct safetensors *file = NULL;
    struct buf text = BUF_INIT;
    cJSON *root = NULL;
    write_adapter(lora);
    ck_ok(safetensors_open(weights_path, &file, &err), err);
    ck_assert_str_eq(safetensors_metadata(file, "format"), "pt");
    ck_assert_uint_eq(file->n_entries, lora->n_tensors);
    const struct safetensors_entry *e =
        safetensors_find(file, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
    ck_assert_ptr_nonnull(e);
    ck_assert_str_eq(e->dtype, "F32");
    ck_assert_uint_eq(e->shape[0], tiny.hidden);
    ck_assert_uint_eq(e->shape[1], 2);
    safetensors_close(file);
    ck_ok(file_read(config_path, 1 << 20, &text, &err), err);
    ck_ok(json_parse(buf_str(&text), text.len, PEFT_CONFIG, &root, &err), err);
    ck_assert_str_eq(json_get(root, "peft_type")->valuestring, "LORA");
    ck_assert_str_eq(json_get(root, "base_model_name_or_path")->valuestring, "base/model");
    ck_assert_double_eq(json_get(root, "r")->valuedouble, 2);
    ck_assert_double_eq(json_get(root, "lora_alpha")->valuedouble, 2.5);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(root, "target_modules")), 2);
    cJSON_Delete(root);
    buf_clear(&text);
    lora_free(lora);
}
END_TEST

START_TEST(a_full_disk_is_told)
{
    static const size_t rooms[] = { 0, 100, 2000 };
    struct lora *lora = adapter(LORA_ALL, 2);
    for (size_t i = 0; i < 3; i++) {
        struct store s = store_new();
        s.room = rooms[i];
        err = ERR_INIT;
        ck_failed(peft_write(lora, "base/model", &s.abi, &err), CLAAS_ERR_EXHAUSTED, err);
        store_clear(&s);
    }
    lora_free(lora);
}
END_TEST

/* ---- configurations that are refused, or not ---- */

#define CONFIG(members) \
    "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":4,\"lora_alpha\":8," \
    "\"target_modules\":[\"q_proj\",\"v_proj\"]" members "}"
#define TARGETS(value) \
    "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":4,\"lora_alpha\":8,\"target_modules\":" value "}"

static const struct {
    const char *text;
    int code;
    const char *what;
} configs[] = {
    { CONFIG(""), 0, "" },
    { CONFIG(",\"a_new_switch\":false,\"rank_pattern\":{},\"modules_to_save\":null"), 0, "" },
    { TARGETS("\"all-linear\""), 0, "" },
    { TARGETS("[\"self_attn.q_proj\",\"model.layers.0.mlp.up_proj\",\"layers.1.mlp.up_proj\"]"), 0, "" },
    { CONFIG(",\"a_new_switch\":true"), CLAAS_ERR_UNSUPPORTED, "a_new_switch" },
    { CONFIG(",\"use_dora\":true"), CLAAS_ERR_UNSUPPORTED, "use_dora" },
    { CONFIG(",\"bias\":\"all\""), CLAAS_ERR_UNSUPPORTED, "bias" },
    { CONFIG(",\"fan_in_fan_out\":true"), CLAAS_ERR_UNSUPPORTED, "fan_in_fan_out" },
    { CONFIG(",\"modules_to_save\":[\"lm_head\"]"), CLAAS_ERR_UNSUPPORTED, "modules_to_save" },
    { CONFIG(",\"rank_pattern\":{\"q_proj\":8}"), CLAAS_ERR_UNSUPPORTED, "rank_pattern" },
    { CONFIG(",\"init_lora_weights\":\"pissa\""), CLAAS_ERR_UNSUPPORTED, "init_lora_weights" },
    { "{\"peft_type\":\"IA3\",\"task_type\":\"CAUSAL_LM\"}", CLAAS_ERR_UNSUPPORTED, "peft_type" },
    { TARGETS("[\"q_proj\",\"lm_head\"]"), CLAAS_ERR_INVALID, "target_modules" },
    { TARGETS("[]"), CLAAS_ERR_INVALID, "target_modules" },
    { TARGETS("[7]"), CLAAS_ERR_INVALID, "target_modules" },
    { TARGETS("null"), CLAAS_ERR_INVALID, "target_modules" },
    { TARGETS("\".*q_proj\""), CLAAS_ERR_UNSUPPORTED, "target_modules" },
    { TARGETS("[\"layers.0.mlp.up_proj\"]"), CLAAS_ERR_UNSUPPORTED, "target_modules" },
    { "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}",
      CLAAS_ERR_INVALID, "r" },
    { "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":8,\"target_modules\":[\"q_proj\"]}", CLAAS_ERR_INVALID,
      "lora_alpha" },
    { "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":257,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}",
      CLAAS_ERR_INVALID, "r" },
    { "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":2.5,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}",
      CLAAS_ERR_INVALID, "r" },
    { "{\"peft_type\":\"LORA\"", CLAAS_ERR_CORRUPT, "" },
    { "[]", CLAAS_ERR_CORRUPT, PEFT_CONFIG },
    { "", CLAAS_ERR_CORRUPT, "" },
};

START_TEST(configurations)
{
    struct lora_spec spec = { 0 };
    file_save(config_path, configs[_i].text, strlen(configs[_i].text));
    err = ERR_INIT;
    int rc = peft_read_config(&tiny, config_path, &spec, &err);
    ck_assert_msg(rc == configs[_i].code, "%s: %d %s", configs[_i].text, rc, err.message);
    ck_assert_int_eq(err.code, rc);
    if (configs[_i].what[0]) {
        ck_assert_str_eq(err.what, configs[_i].what);
    }
    if (rc == 0) {
        ck_assert_uint_eq(spec.rank, 4);
        ck_assert_double_eq(spec.alpha, 8);
        ck_assert_uint_ne(spec.modules & 1 << LORA_Q, 0);
    }
}
END_TEST

/* ---- weights that are refused ---- */

/* Replaces the first `from` in a saved file by `to`, of the same length. */
static void patch(const char *path, const char *from, const char *to)
{
    struct buf file = BUF_INIT;
    ck_ok(file_read(path, 1 << 20, &file, &err), err);
    char *at = memmem(file.data, file.len, from, strlen(from));
    ck_assert_ptr_nonnull(at);
    memcpy(at, to, strlen(from));
    file_save(path, file.data, file.len);
    buf_clear(&file);
}

static void expect_refused(int code, const char *says)
{
    struct lora *back = NULL;
    int rc = read_adapter(&back);
    ck_failed(rc, code, err);
    ck_assert_msg(strstr(err.message, says) != NULL, "'%s' does not say '%s'", err.message, says);
    ck_assert_ptr_null(back);
}

START_TEST(weights_that_do_not_fit)
{
    struct lora *lora = adapter(LORA_ALL, 2);
    write_adapter(lora);
    patch(weights_path, "layers.1.mlp.up_proj.lora_B", "layers.7.mlp.up_proj.lora_B");
    expect_refused(CLAAS_ERR_INVALID, "though the other half of its pair is there");
    write_adapter(lora);
    patch(config_path, "\"r\":\t2", "\"r\":\t3");
    expect_refused(CLAAS_ERR_INVALID, "for rank 3");
    write_adapter(lora);
    patch(config_path, "\"up_proj\"", "\"q_proj\" ");
    expect_refused(CLAAS_ERR_INVALID, "do not belong to target_modules");
    lora_free(lora);
}
END_TEST

START_TEST(weights_that_are_broken)
{
    static const float nan_value = NAN;
    struct lora *lora = adapter(LORA_ALL, 2);
    struct buf file = BUF_INIT;
    write_adapter(lora);
    ck_ok(file_read(weights_path, 1 << 20, &file, &err), err);
    memcpy(file.data + file.len - sizeof nan_value, &nan_value, sizeof nan_value);
    file_save(weights_path, file.data, file.len);
    expect_refused(CLAAS_ERR_INVALID, "NaN");
    file_save(weights_path, file.data, file.len - 1);
    expect_refused(CLAAS_ERR_CORRUPT, PEFT_WEIGHTS);
    buf_clear(&file);
    lora_free(lora);
}
END_TEST

/* ---- moments ---- */

static struct optim *moments_of(const struct lora *lora)
{
    struct optim *o = NULL;
    ck_ok(optim_create(k, lora->n, &o, &err), err);
    for (size_t i = 0; i < lora->n; i++) {
        o->mean[i] = -(float)i;
        o->var[i] = (float)i * 0.5f;
    }
    o->step = 12345678901;
    return o;
}

static void write_moments(const struct lora *lora, const struct optim *o)
{
    struct store s = store_new();
    ck_ok(moments_write(lora, o, &s.abi, &err), err);
    ck_assert_uint_eq(s.n, 1);
    ck_assert_str_eq(s.names[0], MOMENTS_FILE);
    ck_assert_uint_eq(s.roles[0], CLAAS_TRAIN);
    store_save(&s);
    store_clear(&s);
}

START_TEST(moments_are_read_back)
{
    struct lora *lora = adapter(1 << LORA_K | 1 << LORA_GATE, 3);
    struct optim *o = moments_of(lora);
    struct optim *back = NULL;
    write_moments(lora, o);
    ck_ok(moments_read(lora, moments_path, &back, &err), err);
    ck_assert_uint_eq(back->step, o->step);
    ck_assert_uint_eq(back->n, o->n);
    ck_assert_mem_eq(back->mean, o->mean, o->n * sizeof *o->mean);
    ck_assert_mem_eq(back->var, o->var, o->n * sizeof *o->var);
    optim_free(o);
    optim_free(back);
    lora_free(lora);
}
END_TEST

static void expect_moments_refused(const struct lora *lora, int code)
{
    struct optim *back = NULL;
    err = ERR_INIT;
    int rc = moments_read(lora, moments_path, &back, &err);
    ck_failed(rc, code, err);
    ck_assert_ptr_null(back);
}

START_TEST(moments_that_do_not_fit)
{
    struct lora *lora = adapter(1 << LORA_K | 1 << LORA_GATE, 3);
    struct lora *wider = adapter(1 << LORA_K | 1 << LORA_GATE, 4);
    struct lora *fewer = adapter(1 << LORA_K, 3);
    struct optim *o = moments_of(lora);
    write_moments(lora, o);
    expect_moments_refused(wider, CLAAS_ERR_INVALID);
    expect_moments_refused(fewer, CLAAS_ERR_INVALID);
    patch(moments_path, "12345678901", "1234x678901");
    expect_moments_refused(lora, CLAAS_ERR_CORRUPT);
    write_moments(lora, o);
    patch(moments_path, MOMENTS_FORMAT, "other-adam/1 ");
    expect_moments_refused(lora, CLAAS_ERR_UNSUPPORTED);
    o->var[5] = -1;
    write_moments(lora, o);
    expect_moments_refused(lora, CLAAS_ERR_INVALID);
    optim_free(o);
    lora_free(lora);
    lora_free(wider);
    lora_free(fewer);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_peft");
    TCase *t = tcase_create("peft");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, written_is_read, 0, sizeof subsets / sizeof subsets[0]);
    tcase_add_test(t, rank_stable_scaling_is_kept);
    tcase_add_test(t, the_files_are_those_of_peft);
    tcase_add_test(t, a_full_disk_is_told);
    tcase_add_loop_test(t, configurations, 0, sizeof configs / sizeof configs[0]);
    tcase_add_test(t, weights_that_do_not_fit);
    tcase_add_test(t, weights_that_are_broken);
    tcase_add_test(t, moments_are_read_back);
    tcase_add_test(t, moments_that_do_not_fit);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
