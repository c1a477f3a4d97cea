/* SPDX-License-Identifier: MIT */
/* Models as a whole: a tiny one as GGUF and as a directory must be the same model; what we cannot run is refused by
 * name; and the real SmolLM2 file, when CLAAS_TEST_MODEL names it, is what it is expected to be. */
#include "config.h"

#include "testing.h"

#include "file_maker.h"

#include "base/file.h"
#include "plugins/local/gguf.h"
#include "plugins/local/modelfile.h"
#include "plugins/local/names.h"
#include "plugins/local/rows.h"
#include "text/template.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char *dir;
static char *gguf_path;

static void setup(void)
{
    dir = file_temp_dir();
    gguf_path = file_path(dir, "tiny.gguf");
}

static void teardown(void)
{
    struct claas_error err = ERR_INIT;
    ck_ok(dir_remove(dir, &err), err);
    free(gguf_path);
    free(dir);
}

static struct modelfile *open_gguf(const struct file_tiny *tiny)
{
    struct buf file = BUF_INIT;
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    file_tiny_gguf(tiny, &file);
    file_save(gguf_path, file.data, file.len);
    buf_clear(&file);
    ck_ok(modelfile_open(gguf_path, NULL, &m, &err), err);
    return m;
}

static struct modelfile *open_directory(const struct file_tiny *tiny)
{
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    file_tiny_directory(tiny, dir);
    ck_ok(modelfile_open(dir, NULL, &m, &err), err);
    return m;
}

static void same_tensors(const struct modelfile *a, const struct modelfile *b, int untied)
{
    const struct model_geometry *g = &a->source.geometry;
    float left[128];
    float right[128];
    for (size_t i = 0; i < model_slot_count(g, !untied); i++) {
        struct model_slot slot;
        model_slot(g, i, &slot);
        const struct kernels_segment *x = modelfile_tensor(a, slot.part, slot.layer);
        const struct kernels_segment *y = modelfile_tensor(b, slot.part, slot.layer);
        ck_assert_msg(x && y, "%s", slot.hf);
        ck_assert_uint_eq(x->rows, slot.rows);
        ck_assert_uint_eq(x->cols, slot.cols);
        for (size_t r = 0; r < slot.rows; r++) {
            row_of_segment(x, r, left);
            row_of_segment(y, r, right);
            ck_assert_msg(memcmp(left, right, slot.cols * sizeof *left) == 0, "%s row %zu", slot.hf, r);
        }
    }
}

/* Both readers, all types that a directory can have: same geometry, rows (the permutation undone), tokens and ends. */
START_TEST(both_formats_agree)
{
    const struct file_tiny tiny = { .seed = 7, .type = (enum kernels_type)_i, .untied = _i == 1 };
    struct modelfile *a = open_gguf(&tiny);
    struct modelfile *b = open_directory(&tiny);
    struct model_geometry g;
    struct model_geometry read = a->source.geometry;
    file_tiny_geometry(&g);
    ck_assert_uint_eq(read.hidden, g.hidden);
    ck_assert_uint_eq(read.layers, g.layers);
    ck_assert_uint_eq(read.heads, g.heads);
    ck_assert_uint_eq(read.kv_heads, g.kv_heads);
    ck_assert_uint_eq(read.head_dim, g.head_dim);
    ck_assert_uint_eq(read.intermediate, g.intermediate);
    ck_assert_uint_eq(read.vocab, g.vocab);
    ck_assert_uint_eq(read.context, g.context);
    ck_assert_double_eq(read.eps, g.eps);
    ck_assert_double_eq(read.rope.theta, 10000.0);
    ck_assert_uint_eq(b->source.geometry.head_dim, g.head_dim);
    ck_assert_uint_eq(b->source.geometry.vocab, g.vocab);
    same_tensors(a, b, tiny.untied);
    ck_assert_str_eq(a->tokens, b->tokens);
    ck_assert_str_ne(a->base, b->base);
    ck_assert_uint_eq(strlen(a->base), 71);
    ck_assert_uint_eq(a->n_stop, 2);
    ck_assert_int_eq(a->stop_ids[0], 0);
    ck_assert_int_eq(a->stop_ids[1], 2);
    ck_assert_uint_eq(b->n_stop, 2);
    ck_assert_str_eq(a->chat_template, b->chat_template);
    ck_assert_int_eq(tokenizer_eos(b->tokenizer), 2);
    ck_assert_int_eq(tokenizer_bos(b->tokenizer), 1);
    modelfile_close(a);
    modelfile_close(b);
}
END_TEST

/* The order of q's rows against a hand-made table: for head size 8 the file holds rows 0 4 1 5 2 6 3 7. */
START_TEST(rows_are_turned_back)
{
    static const uint32_t file_order[] = { 0, 4, 1, 5, 2, 6, 3, 7 };
    const struct file_tiny tiny = { .seed = 1 };
    struct modelfile *m = open_gguf(&tiny);
    const struct kernels_segment *q = modelfile_tensor(m, MODEL_Q, 1);
    const struct kernels_segment *v = modelfile_tensor(m, MODEL_V, 1);
    for (uint32_t f = 0; f < 8; f++) {
        ck_assert_uint_eq(q->order[file_order[f]], f);
        ck_assert_uint_eq(q->order[8 + file_order[f]], 8 + f);
    }
    ck_assert_ptr_null(v->order);
    ck_assert_ptr_null(modelfile_tensor(m, MODEL_OUTPUT, 0));
    ck_assert_ptr_null(modelfile_tensor(m, MODEL_Q, 2));
    struct kernels_segment s = { .rows = 1 };
    struct claas_error err = ERR_INIT;
    ck_ok(m->source.tensor(m->source.ctx, MODEL_Q_BIAS, 0, &s, &err), err);
    ck_assert_ptr_null(s.data);
    modelfile_close(m);
}
END_TEST

/* Dequantisation by the formulas, on blocks made here. */
START_TEST(blocks_by_formula)
{
    uint8_t block[34] = { 0 };
    float out[32];
    block[0] = 0x00;
    block[1] = 0x38; /* 0.5 as float16 */
    for (int i = 0; i < 32; i++) {
        block[2 + i] = (uint8_t)(i - 16);
    }
    row_floats(KERNELS_Q8_0, block, 32, out);
    ck_assert_float_eq(out[0], -8.0f);
    ck_assert_float_eq(out[31], 7.5f);
    for (int i = 0; i < 16; i++) {
        block[2 + i] = (uint8_t)(i | (15 - i) << 4);
    }
    row_floats(KERNELS_Q4_0, block, 32, out);
    ck_assert_float_eq(out[3], 0.5f * (3 - 8));
    ck_assert_float_eq(out[16 + 3], 0.5f * (12 - 8));
    memmove(block + 4, block + 2, 16);
    block[2] = 0x00;
    block[3] = 0xBC; /* -1 */
    row_floats(KERNELS_Q4_1, block, 32, out);
    ck_assert_float_eq(out[5], 0.5f * 5 - 1);
    ck_assert_float_eq(out[16 + 5], 0.5f * 10 - 1);
    ck_assert_float_eq(row_f16_value(0x0001), 0x1p-24f);
    ck_assert_float_eq(row_f16_value(0x7BFF), 65504.0f);
    ck_assert(isinf(row_f16_value(0xFC00)) && row_f16_value(0xFC00) < 0);
    ck_assert(isnan(row_f16_value(0x7E00)));
    ck_assert_uint_eq(row_bytes(KERNELS_Q4_1, 576), 360);
    ck_assert_uint_eq(row_bytes(KERNELS_Q4_1, 48), 0);
}
END_TEST

START_TEST(quantised_models_open)
{
    const struct file_tiny tiny = { .seed = 3, .type = (enum kernels_type)_i };
    const struct file_tiny exact = { .seed = 3, .type = KERNELS_F32 };
    struct modelfile *m = open_gguf(&tiny);
    struct modelfile *f = open_directory(&exact);
    float got[64];
    float want[64];
    const struct kernels_segment *a = modelfile_tensor(m, MODEL_K, 1);
    const struct kernels_segment *b = modelfile_tensor(f, MODEL_K, 1);
    ck_assert_int_eq(a->type, tiny.type);
    for (size_t r = 0; r < a->rows; r++) {
        row_of_segment(a, r, got);
        row_of_segment(b, r, want);
        for (size_t c = 0; c < a->cols && tiny.type != KERNELS_Q4_0; c++) {
            ck_assert_msg(fabsf(got[c] - want[c]) < 0.05f, "row %zu column %zu: %g %g", r, c, got[c], want[c]);
        }
    }
    modelfile_close(m);
    modelfile_close(f);
}
END_TEST

/* The identity sees weights, names and tokenizer. */
START_TEST(identity_differs)
{
    const struct file_tiny one = { .seed = 1 };
    const struct file_tiny two = { .seed = 2 };
    struct modelfile *a = open_gguf(&one);
    char base[MODELFILE_ID];
    memcpy(base, a->base, sizeof base);
    modelfile_close(a);
    a = open_gguf(&one);
    ck_assert_str_eq(a->base, base);
    modelfile_close(a);
    a = open_gguf(&two);
    ck_assert_str_ne(a->base, base);
    modelfile_close(a);
}
END_TEST

/* ---- what is refused ---- */

static void refused(const char *what, int code, const char *says)
{
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    int rc = modelfile_open(what, NULL, &m, &err);
    ck_assert_msg(rc == code, "%s: %d %s", says, rc, err.message);
    ck_assert_msg(strstr(err.message, says) != NULL, "%s: %s", says, err.message);
}

START_TEST(tokenizer_missing)
{
    const struct file_tiny tiny = { .seed = 1, .no_tokenizer = 1 };
    struct buf file = BUF_INIT;
    file_tiny_gguf(&tiny, &file);
    file_save(gguf_path, file.data, file.len);
    buf_clear(&file);
    refused(gguf_path, CLAAS_ERR_NOT_FOUND, "has no tokenizer");
    file_tiny_directory(&tiny, dir);
    refused(dir, CLAAS_ERR_NOT_FOUND, "tokenizer.json is missing");
}
END_TEST

START_TEST(template_may_be_missing)
{
    const struct file_tiny tiny = { .seed = 1, .no_template = 1 };
    struct modelfile *m = open_gguf(&tiny);
    ck_assert_ptr_null(m->chat_template);
    modelfile_close(m);
    m = open_directory(&tiny);
    ck_assert_ptr_null(m->chat_template);
    modelfile_close(m);
    char *path = file_path(dir, "chat_template.jinja");
    file_save(path, "{{ x }}", 7);
    free(path);
    struct claas_error err = ERR_INIT;
    ck_ok(modelfile_open(dir, NULL, &m, &err), err);
    ck_assert_str_eq(m->chat_template, "{{ x }}");
    modelfile_close(m);
}
END_TEST

/* Replaces the first `from` that follows `after` in the tiny GGUF by as many bytes of `to`. */
static void patched(const char *after, const char *from, const char *to, int code, const char *says)
{
    const struct file_tiny tiny = { .seed = 1 };
    struct buf file = BUF_INIT;
    file_tiny_gguf(&tiny, &file);
    ck_assert_uint_eq(strlen(from), strlen(to));
    char *key = memmem(file.data, file.len, after, strlen(after));
    ck_assert_msg(key != NULL, "%s", after);
    char *at = memmem(key, file.len - (size_t)(key - file.data), from, strlen(from));
    ck_assert_msg(at != NULL, "%s", from);
    memcpy(at, to, strlen(to));
    file_save(gguf_path, file.data, file.len);
    buf_clear(&file);
    refused(gguf_path, code, says);
}

/* Sets the number behind a key of the tiny GGUF. */
static void renumbered(const char *key, uint32_t value, int code, const char *says)
{
    const struct file_tiny tiny = { .seed = 1 };
    struct buf file = BUF_INIT;
    file_tiny_gguf(&tiny, &file);
    char *at = memmem(file.data, file.len, key, strlen(key));
    ck_assert_msg(at != NULL, "%s", key);
    memcpy(at + strlen(key) + 4, &value, sizeof value);
    file_save(gguf_path, file.data, file.len);
    buf_clear(&file);
    refused(gguf_path, code, says);
}

START_TEST(gguf_numbers_refused)
{
    renumbered("llama.block_count", 0, CLAAS_ERR_CORRUPT, "block_count");
    renumbered("llama.block_count", 3, CLAAS_ERR_CORRUPT, "missing: blk.2.");
    renumbered("llama.block_count", 1, CLAAS_ERR_CORRUPT, "unexpected: blk.1.");
    renumbered("llama.block_count", 4000000000u, CLAAS_ERR_CORRUPT, "1 to 1024");
    renumbered("llama.embedding_length", 64, CLAAS_ERR_UNSUPPORTED, "rope.dimension_count");
    renumbered("llama.embedding_length", 1u << 31, CLAAS_ERR_CORRUPT, "embedding_length");
    renumbered("llama.attention.head_count", 0, CLAAS_ERR_CORRUPT, "head_count");
    renumbered("llama.attention.head_count_kv", 3, CLAAS_ERR_CORRUPT, "key-value heads");
    renumbered("llama.rope.dimension_count", 4, CLAAS_ERR_UNSUPPORTED, "rope.dimension_count");
    renumbered("llama.feed_forward_length", 96, CLAAS_ERR_CORRUPT, "expected");
    renumbered("llama.vocab_size", 261, CLAAS_ERR_CORRUPT, "expected 261");
    renumbered("llama.attention.layer_norm_rms_epsilon", 0x7FC00000, CLAAS_ERR_CORRUPT, "finite");
    renumbered("llama.attention.layer_norm_rms_epsilon", 0, CLAAS_ERR_CORRUPT, "epsilon");
    renumbered("llama.rope.freq_base", 0, CLAAS_ERR_CORRUPT, "rope");
    renumbered("llama.context_length", 0, CLAAS_ERR_CORRUPT, "context_length");
}
END_TEST

START_TEST(gguf_texts_refused)
{
    patched("general.architecture", "llama", "mamba", CLAAS_ERR_UNSUPPORTED, "'mamba'");
    patched("tokenizer.ggml.model", "gpt2", "bert", CLAAS_ERR_UNSUPPORTED, "'bert'");
    patched("tokenizer.ggml.pre", "smollm", "tekken", CLAAS_ERR_UNSUPPORTED, "tekken");
    patched("tokenizer.ggml.", "pre", "prf", CLAAS_ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    patched("tokenizer.ggml.", "tokens", "tokenz", CLAAS_ERR_NOT_FOUND, "tokenizer.ggml.tokens");
    patched("tokenizer.ggml.merges", "h e", "h\x01\x02", CLAAS_ERR_INVALID, "tiny.gguf");
    patched("blk.0.", "attn_q.weight", "attn_z.weight", CLAAS_ERR_CORRUPT, "1 are unexpected: blk.0.attn_z.weight");
    patched("blk.0.", "attn_q.weight", "attn_k.weight", CLAAS_ERR_CORRUPT, "twice");
}
END_TEST

START_TEST(directory_refused)
{
    static const struct {
        const char *config;
        int code;
        const char *says;
    } rows[] = {
        { "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"]}", CLAAS_ERR_UNSUPPORTED, "Qwen2ForCausalLM" },
        { "{\"model_type\":\"gpt_neox\"}", CLAAS_ERR_UNSUPPORTED, "gpt_neox" },
        { "{}", CLAAS_ERR_UNSUPPORTED, "missing" },
        { "[]", CLAAS_ERR_CORRUPT, "not a JSON object" },
        { "{\"model_type\":", CLAAS_ERR_CORRUPT, "JSON" },
        { "{\"model_type\":\"llama\"}", CLAAS_ERR_CORRUPT, "hidden_size" },
#define SIZES                                                                                                            \
    "\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":264,"  \
    "\"intermediate_size\":64,\"num_key_value_heads\":2,\"tie_word_embeddings\":true"
        { "{" SIZES ",\"hidden_act\":\"gelu\"}", CLAAS_ERR_UNSUPPORTED, "hidden_act" },
        { "{" SIZES ",\"quantization_config\":{}}", CLAAS_ERR_UNSUPPORTED, "quantization_config" },
        { "{" SIZES ",\"partial_rotary_factor\":0.5}", CLAAS_ERR_UNSUPPORTED, "partial_rotary_factor" },
        { "{" SIZES ",\"pretraining_tp\":2}", CLAAS_ERR_UNSUPPORTED, "pretraining_tp" },
        { "{" SIZES ",\"attention_bias\":true}", CLAAS_ERR_UNSUPPORTED, "attention_bias" },
        { "{" SIZES ",\"mlp_bias\":true}", CLAAS_ERR_UNSUPPORTED, "mlp_bias" },
        { "{" SIZES ",\"sliding_window\":16}", CLAAS_ERR_UNSUPPORTED, "sliding_window" },
        { "{" SIZES ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", CLAAS_ERR_UNSUPPORTED, "rope_scaling" },
        { "{" SIZES ",\"rope_scaling\":{\"rope_type\":\"linear\"}}", CLAAS_ERR_CORRUPT, "factor" },
        { "{" SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", CLAAS_ERR_CORRUPT, "low_freq_factor" },
        { "{" SIZES ",\"rope_scaling\":8}", CLAAS_ERR_CORRUPT, "rope_scaling" },
        { "{" SIZES ",\"head_dim\":7}", CLAAS_ERR_CORRUPT, "odd" },
        { "{" SIZES ",\"head_dim\":-8}", CLAAS_ERR_CORRUPT, "head_dim" },
        { "{" SIZES ",\"rms_norm_eps\":\"small\"}", CLAAS_ERR_CORRUPT, "rms_norm_eps" },
        { "{" SIZES ",\"eos_token_id\":\"x\"}", CLAAS_ERR_CORRUPT, "eos_token_id" },
        { "{" SIZES ",\"eos_token_id\":[2,1e99]}", CLAAS_ERR_CORRUPT, "eos_token_id" },
        { "{" SIZES ",\"max_position_embeddings\":1e300}", CLAAS_ERR_CORRUPT, "max_position_embeddings" },
        { "{" SIZES ",\"hidden_size\":32}", CLAAS_ERR_CORRUPT, "twice" },
        { "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
          "\"vocab_size\":264,\"intermediate_size\":64,\"num_key_value_heads\":2}", CLAAS_ERR_CORRUPT, "lm_head.weight" },
        { "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
          "\"vocab_size\":300,\"intermediate_size\":64,\"num_key_value_heads\":2,\"tie_word_embeddings\":true}",
          CLAAS_ERR_CORRUPT, "model.embed_tokens.weight" },
    };
    const struct file_tiny tiny = { .seed = 1 };
    char *path = file_path(dir, "config.json");
    file_tiny_directory(&tiny, dir);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        file_save(path, rows[i].config, strlen(rows[i].config));
        refused(dir, rows[i].code, rows[i].says);
    }
    free(path);
}
END_TEST

START_TEST(llama3_scaling_is_read)
{
    const struct file_tiny tiny = { .seed = 1 };
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    char *path = file_path(dir, "config.json");
    const char *config = "{" SIZES ",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\",\"factor\":8.0,"
                         "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}";
    file_tiny_directory(&tiny, dir);
    file_save(path, config, strlen(config));
    ck_ok(modelfile_open(dir, NULL, &m, &err), err);
    ck_assert_int_eq(m->source.geometry.rope.kind, ROPE_LLAMA3);
    ck_assert_double_eq(m->source.geometry.rope.theta, 500000.0);
    ck_assert_double_eq(m->source.geometry.rope.factor, 8.0);
    ck_assert_double_eq(m->source.geometry.rope.original, 8192.0);
    modelfile_close(m);
    free(path);
}
END_TEST

START_TEST(shards)
{
    const struct file_tiny tiny = { .seed = 1 };
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    char *single = file_path(dir, "model.safetensors");
    char *shard = file_path(dir, "model-00001-of-00001.safetensors");
    char *index = file_path(dir, "model.safetensors.index.json");
    struct model_geometry g;
    struct buf map = BUF_INIT;
    file_tiny_directory(&tiny, dir);
    ck_assert_int_eq(rename(single, shard), 0);
    file_tiny_geometry(&g);
    buf_adds(&map, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < model_slot_count(&g, 1); i++) {
        struct model_slot slot;
        model_slot(&g, i, &slot);
        buf_addf(&map, "%s\"%s\":\"model-00001-of-00001.safetensors\"", i ? "," : "", slot.hf);
    }
    buf_adds(&map, "}}");
    file_save(index, map.data, map.len);
    ck_ok(modelfile_open(dir, NULL, &m, &err), err);
    modelfile_close(m);
    buf_clear(&map);
    static const struct {
        const char *map;
        int code;
        const char *says;
    } rows[] = {
        { "{\"weight_map\":{\"a\":\"../model.safetensors\"}}", CLAAS_ERR_CORRUPT, "plain" },
        { "{\"weight_map\":{\"a\":\"x/model.safetensors\"}}", CLAAS_ERR_CORRUPT, "plain" },
        { "{\"weight_map\":{\"a\":\"model.bin\"}}", CLAAS_ERR_CORRUPT, "plain" },
        { "{\"weight_map\":{\"a\":7}}", CLAAS_ERR_CORRUPT, "plain" },
        { "{\"weight_map\":{\"a\":\"model-00001-of-00001.safetensors\"}}", CLAAS_ERR_CORRUPT, "not in it" },
        { "{\"weight_map\":{\"a\":\"other.safetensors\"}}", CLAAS_ERR_NOT_FOUND, "other.safetensors" },
        { "{\"weight_map\":{}}", CLAAS_ERR_CORRUPT, "weight_map" },
        { "{\"weight_map\":", CLAAS_ERR_CORRUPT, "JSON" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        file_save(index, rows[i].map, strlen(rows[i].map));
        refused(dir, rows[i].code, rows[i].says);
    }
    free(single);
    free(shard);
    free(index);
}
END_TEST

START_TEST(links_stay_inside)
{
    const struct file_tiny tiny = { .seed = 1 };
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    char *outer = file_temp_dir();
    char *weights = file_path(dir, "model.safetensors");
    char *elsewhere = file_path(outer, "model.safetensors");
    file_tiny_directory(&tiny, dir);
    ck_assert_int_eq(rename(weights, elsewhere), 0);
    ck_assert_int_eq(symlink(elsewhere, weights), 0);
    refused(dir, CLAAS_ERR_FORBIDDEN, "link out of its directory");
    /* The hub's cache: snapshots/ID/model.safetensors -> ../../blobs/DIGEST. */
    char *snapshots = file_path(outer, "snapshots");
    char *blobs = file_path(outer, "blobs");
    char *snapshot = file_path(snapshots, "abc");
    char *blob = file_path(blobs, "d1");
    char *inner = file_path(snapshot, "model.safetensors");
    ck_ok(dir_make(blobs, 0700, &err), err);
    ck_ok(dir_make(snapshot, 0700, &err), err);
    file_tiny_directory(&tiny, snapshot);
    ck_assert_int_eq(rename(inner, blob), 0);
    ck_assert_int_eq(symlink("../../blobs/d1", inner), 0);
    ck_ok(modelfile_open(snapshot, NULL, &m, &err), err);
    modelfile_close(m);
    ck_ok(dir_remove(outer, &err), err);
    free(inner);
    free(blob);
    free(snapshot);
    free(blobs);
    free(snapshots);
    free(elsewhere);
    free(weights);
    free(outer);
}
END_TEST

START_TEST(pickles_and_strangers)
{
    const struct file_tiny tiny = { .seed = 1 };
    char *weights = file_path(dir, "model.safetensors");
    char *pickle = file_path(dir, "pytorch_model.bin");
    refused("/nowhere/model.gguf", CLAAS_ERR_NOT_FOUND, "/nowhere/model.gguf");
    refused(dir, CLAAS_ERR_NOT_FOUND, "config.json");
    file_tiny_directory(&tiny, dir);
    refused(weights, CLAAS_ERR_INVALID, "directory");
    ck_assert_int_eq(rename(weights, pickle), 0);
    refused(dir, CLAAS_ERR_UNSUPPORTED, "'pytorch_model.bin' is a pickle");
    refused(pickle, CLAAS_ERR_UNSUPPORTED, "pickle");
    ck_assert_int_eq(unlink(pickle), 0);
    refused(dir, CLAAS_ERR_NOT_FOUND, "model.safetensors");
    free(weights);
    free(pickle);
}
END_TEST

/* A whole model with any byte of its header changed: an error or a model, never a crash (run under a sanitizer). */
START_TEST(every_header_byte_flipped)
{
    const struct file_tiny tiny = { .seed = 1 };
    struct buf file = BUF_INIT;
    struct gguf *g = NULL;
    struct claas_error err = ERR_INIT;
    float row[128];
    file_tiny_gguf(&tiny, &file);
    file_save(gguf_path, file.data, file.len);
    ck_ok(gguf_open(gguf_path, &g, &err), err);
    size_t header = g->header_bytes;
    gguf_close(g);
    size_t refusals = 0;
    for (size_t i = (size_t)_i; i < header; i += 4) {
        struct modelfile *m = NULL;
        file.data[i] = (char)~file.data[i];
        file_save(gguf_path, file.data, file.len);
        if (modelfile_open(gguf_path, NULL, &m, &err)) {
            refusals++;
        } else {
            row_of_segment(modelfile_tensor(m, MODEL_Q, 1), 31, row);
            modelfile_close(m);
        }
        file.data[i] = (char)~file.data[i];
    }
    ck_assert_uint_gt(refusals, header / 8);
    buf_clear(&file);
}
END_TEST

static uint32_t no_time(const struct claas_call *call)
{
    (void)call;
    return 0;
}

START_TEST(open_can_be_cancelled)
{
    const struct file_tiny tiny = { .seed = 1 };
    const struct claas_call call = { .size = sizeof call, .left_ms = no_time };
    struct modelfile *m = NULL;
    struct claas_error err = ERR_INIT;
    file_tiny_directory(&tiny, dir);
    ck_failed(modelfile_open(dir, &call, &m, &err), CLAAS_ERR_CANCELLED, err);
}
END_TEST

/* ---- the real file ---- */

static void real_types(const struct modelfile *m)
{
    size_t counts[KERNELS_TYPES] = { 0 };
    size_t bytes = 0;
    size_t slots = model_slot_count(&m->source.geometry, 1);
    ck_assert_uint_eq(slots, 272);
    for (size_t i = 0; i < slots; i++) {
        struct model_slot slot;
        model_slot(&m->source.geometry, i, &slot);
        const struct kernels_segment *s = modelfile_tensor(m, slot.part, slot.layer);
        counts[s->type]++;
        bytes += s->rows * row_bytes(s->type, s->cols);
    }
    ck_assert_uint_eq(counts[KERNELS_Q4_1], 210);
    ck_assert_uint_eq(counts[KERNELS_Q8_0], 1);
    ck_assert_uint_eq(counts[KERNELS_F32], 61);
    ck_assert_uint_eq(bytes, 96576768);
}

static void real_rows_finite(const struct modelfile *m)
{
    static float row[1536];
    for (size_t i = 0; i < 272; i++) {
        struct model_slot slot;
        model_slot(&m->source.geometry, i, &slot);
        const struct kernels_segment *s = modelfile_tensor(m, slot.part, slot.layer);
        for (size_t r = 0; r < s->rows; r += 97) {
            double sum = 0;
            row_of_segment(s, r, row);
            for (size_t c = 0; c < s->cols; c++) {
                sum += (double)row[c] * (double)row[c];
            }
            ck_assert_msg(isfinite(sum) && sum > 0, "%s row %zu", slot.hf, r);
        }
    }
}

START_TEST(real_model)
{
    const char *path = getenv("CLAAS_TEST_MODEL");
    struct modelfile *m = NULL;
    const struct chat_template *template = NULL;
    struct claas_error err = ERR_INIT;
    if (!path || access(path, R_OK) != 0) {
        printf("# SKIP the real model: CLAAS_TEST_MODEL does not name SmolLM2-135M-Instruct.Q4_1.gguf\n");
        return;
    }
    ck_ok(modelfile_open(path, NULL, &m, &err), err);
    const struct model_geometry *g = &m->source.geometry;
    ck_assert_uint_eq(g->hidden, 576);
    ck_assert_uint_eq(g->layers, 30);
    ck_assert_uint_eq(g->intermediate, 1536);
    ck_assert_uint_eq(g->heads, 9);
    ck_assert_uint_eq(g->kv_heads, 3);
    ck_assert_uint_eq(g->head_dim, 64);
    ck_assert_uint_eq(g->vocab, 49152);
    ck_assert_uint_eq(g->context, 8192);
    ck_assert_double_eq_tol(g->eps, 1e-5, 1e-10);
    ck_assert_double_eq(g->rope.theta, 100000.0);
    real_types(m);
    real_rows_finite(m);
    ck_assert_uint_eq(tokenizer_vocab(m->tokenizer), 49152);
    ck_assert_int_eq(tokenizer_bos(m->tokenizer), 1);
    ck_assert_int_eq(tokenizer_eos(m->tokenizer), 2);
    ck_assert_int_eq(tokenizer_adds_bos(m->tokenizer), 0);
    ck_assert_uint_eq(m->n_stop, 2);
    ck_assert_int_eq(m->stop_ids[0], 0);
    ck_assert_int_eq(m->stop_ids[1], 2);
    for (int32_t id = 0; id < 17; id++) {
        ck_assert_int_eq(tokenizer_type(m->tokenizer, id), TOKEN_CONTROL);
    }
    ck_ok(chat_template_choose(NULL, m->chat_template, &template, &err), err);
    ck_assert_str_eq(chat_template_name(template), "smollm2");
    modelfile_close(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("modelfile_model");
    TCase *t = tcase_create("model");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, both_formats_agree, 0, 3);
    tcase_add_test(t, rows_are_turned_back);
    tcase_add_test(t, blocks_by_formula);
    tcase_add_loop_test(t, quantised_models_open, KERNELS_F16, KERNELS_TYPES);
    tcase_add_test(t, identity_differs);
    tcase_add_test(t, tokenizer_missing);
    tcase_add_test(t, template_may_be_missing);
    tcase_add_test(t, gguf_numbers_refused);
    tcase_add_test(t, gguf_texts_refused);
    tcase_add_test(t, directory_refused);
    tcase_add_test(t, llama3_scaling_is_read);
    tcase_add_test(t, shards);
    tcase_add_test(t, links_stay_inside);
    tcase_add_test(t, pickles_and_strangers);
    tcase_add_loop_test(t, every_header_byte_flipped, 0, 4);
    tcase_add_test(t, open_can_be_cancelled);
    tcase_add_test(t, real_model);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
