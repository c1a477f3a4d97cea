/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "file_maker.h"

#include "base/file.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "plugins/local/names.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HIDDEN = 32, LAYERS = 2, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, INTER = 64, CONTEXT = 256 };

#define TEMPLATE                                                                                                      \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"    \
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"                 \
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"              \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

char *file_temp_dir(void)
{
    const char *base = getenv("TMPDIR");
    char *path = file_path(base && *base ? base : "/tmp", "claas-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(path));
    return path;
}

char *file_path(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    ck_assert_ptr_nonnull(path);
    return path;
}

void file_save(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wbe");
    ck_assert_msg(f != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* ---- GGUF ---- */

void file_raw_u32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, sizeof v);
}

void file_raw_u64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, sizeof v);
}

void file_raw_text(struct buf *b, const char *s)
{
    file_raw_u64(b, strlen(s));
    buf_adds(b, s);
}

static void key_begin(struct file_gguf *f, const char *key, uint32_t type)
{
    file_raw_text(&f->values, key);
    file_raw_u32(&f->values, type);
    f->n_values++;
}

void file_gguf_u32(struct file_gguf *f, const char *key, uint32_t v)
{
    key_begin(f, key, 4);
    file_raw_u32(&f->values, v);
}

void file_gguf_f32(struct file_gguf *f, const char *key, float v)
{
    key_begin(f, key, 6);
    buf_add(&f->values, &v, sizeof v);
}

void file_gguf_bool(struct file_gguf *f, const char *key, uint8_t v)
{
    key_begin(f, key, 7);
    buf_add(&f->values, &v, 1);
}

void file_gguf_text(struct file_gguf *f, const char *key, const char *v)
{
    key_begin(f, key, 8);
    file_raw_text(&f->values, v);
}

void file_gguf_texts(struct file_gguf *f, const char *key, const char *const *v, size_t n)
{
    key_begin(f, key, 9);
    file_raw_u32(&f->values, 8);
    file_raw_u64(&f->values, n);
    for (size_t i = 0; i < n; i++) {
        file_raw_text(&f->values, v[i]);
    }
}

void file_gguf_i32s(struct file_gguf *f, const char *key, const int32_t *v, size_t n)
{
    key_begin(f, key, 9);
    file_raw_u32(&f->values, 5);
    file_raw_u64(&f->values, n);
    buf_add(&f->values, v, n * sizeof *v);
}

static void pad(struct buf *b, uint64_t alignment)
{
    while (b->len % alignment != 0) {
        buf_addc(b, '\0');
    }
}

void file_gguf_tensor(struct file_gguf *f, const char *name, uint32_t type, uint32_t rank, const uint64_t *dims,
                      const void *data, size_t bytes)
{
    file_raw_text(&f->infos, name);
    file_raw_u32(&f->infos, rank);
    buf_add(&f->infos, dims, rank * sizeof *dims);
    file_raw_u32(&f->infos, type);
    file_raw_u64(&f->infos, f->data.len);
    buf_add(&f->data, data, bytes);
    pad(&f->data, f->alignment ? f->alignment : 32);
    f->n_tensors++;
}

void file_gguf_end(struct file_gguf *f, uint32_t version, struct buf *out)
{
    size_t from = out->len;
    ck_assert_uint_eq(from, 0);
    buf_adds(out, "GGUF");
    file_raw_u32(out, version);
    file_raw_u64(out, f->n_tensors);
    file_raw_u64(out, f->n_values);
    buf_add(out, f->values.data, f->values.len);
    buf_add(out, f->infos.data, f->infos.len);
    pad(out, f->alignment ? f->alignment : 32);
    buf_add(out, f->data.data, f->data.len);
    ck_assert(!out->failed && !f->values.failed && !f->infos.failed && !f->data.failed);
    buf_clear(&f->values);
    buf_clear(&f->infos);
    buf_clear(&f->data);
    *f = (struct file_gguf){ 0 };
}

/* ---- safetensors ---- */

void file_safetensors(const char *header, const void *data, size_t bytes, struct buf *out)
{
    file_raw_u64(out, strlen(header));
    buf_adds(out, header);
    buf_add(out, data, bytes);
    ck_assert(!out->failed);
}

/* ---- the tiny model ---- */

void file_tiny_geometry(struct model_geometry *out)
{
    *out = (struct model_geometry){ .hidden = HIDDEN, .layers = LAYERS, .heads = HEADS, .kv_heads = KV_HEADS,
                                    .head_dim = HEAD_DIM, .intermediate = INTER, .vocab = FILE_TINY_VOCAB,
                                    .context = CONTEXT, .eps = (double)1e-5f,
                                    .rope = { .kind = ROPE_PLAIN, .theta = 10000.0 } };
}

/* The spelling of a byte in a byte-level vocabulary. */
static size_t byte_symbol(unsigned byte, char *out)
{
    uint32_t shifted = 256;
    for (unsigned b = 0; b < 256; b++) {
        int plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) {
            return utf8_encode(plain ? b : shifted, out);
        }
        shifted += !plain;
    }
    return 0;
}

static void tiny_tokens(char tokens[FILE_TINY_TOKENS][24])
{
    static const char *const control[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
    static const char *const merged[] = { "he", "ll", "hell" };
    memset(tokens, 0, FILE_TINY_TOKENS * sizeof *tokens);
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(tokens[i], sizeof *tokens, "%s", control[i]);
        (void)snprintf(tokens[259 + i], sizeof *tokens, "%s", merged[i]);
    }
    for (unsigned b = 0; b < 256; b++) {
        (void)byte_symbol(b, tokens[3 + b]);
    }
}

static const char *const tiny_merges[] = { "h e", "l l", "he ll" };

/* Numbers of one tensor in Hugging Face order: norms near 1, matrices around 0. */
static float *tiny_floats(const struct file_tiny *tiny, const struct model_slot *slot, size_t number)
{
    size_t n = slot->rows * slot->cols;
    float *values = calloc(n, sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (size_t i = 0; i < n; i++) {
        double u = rng_uniform(tiny->seed, number, i) * 2 - 1;
        values[i] = (float)(slot->vector ? 1 + 0.1 * u : 0.3 * u);
    }
    return values;
}

static uint16_t f16_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    int exponent = (int)(bits >> 23 & 255) - 127 + 15;
    uint32_t sign = bits >> 16 & 0x8000u;
    return (uint16_t)(exponent <= 0 ? sign : sign | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

/* One row in the wanted type, appended to out. Quantised rows take the nearest level of a common scale. */
static void add_row(enum kernels_type type, const float *row, size_t cols, struct buf *out)
{
    for (size_t i = 0; i < cols && type <= KERNELS_BF16; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], sizeof bits);
        uint16_t half = type == KERNELS_F16 ? f16_of(row[i]) : (uint16_t)(bits >> 16);
        buf_add(out, type == KERNELS_F32 ? (const void *)&bits : (const void *)&half, type == KERNELS_F32 ? 4 : 2);
    }
    for (size_t b = 0; type > KERNELS_BF16 && b < cols; b += 32) {
        uint16_t scale = f16_of(type == KERNELS_Q8_0 ? 0.0025f : 0.04f);
        uint16_t least = f16_of(-0.3f);
        buf_add(out, &scale, 2);
        if (type == KERNELS_Q4_1) {
            buf_add(out, &least, 2);
        }
        for (size_t j = 0; j < (type == KERNELS_Q8_0 ? 32 : 16); j++) {
            int low = (int)((row[b + j] + 0.3f) / 0.04f) & 15;
            int high = (int)((row[b + (j + 16) % 32] + 0.3f) / 0.04f) & 15;
            int whole = (int)(row[b + j] / 0.0025f);
            buf_addc(out, (char)(type == KERNELS_Q8_0 ? whole : low | high << 4));
        }
    }
}

/* Where GGUF's architecture "llama" puts an original row of q or k. */
static size_t turned_row(const struct model_slot *slot, size_t row)
{
    size_t head_dim = slot->rows / slot->turned_heads;
    size_t half = head_dim / 2;
    size_t i = row % head_dim;
    return row - i + 2 * (i % half) + i / half;
}

static void tensor_bytes(const struct file_tiny *tiny, const struct model_slot *slot, size_t number, int turned,
                         struct buf *out)
{
    float *values = tiny_floats(tiny, slot, number);
    size_t *from = calloc(slot->rows, sizeof *from);
    ck_assert_ptr_nonnull(from);
    for (size_t r = 0; r < slot->rows; r++) {
        from[turned && slot->turned_heads ? turned_row(slot, r) : r] = r;
    }
    for (size_t r = 0; r < slot->rows; r++) {
        add_row(slot->vector ? KERNELS_F32 : tiny->type, values + from[r] * slot->cols, slot->cols, out);
    }
    free(from);
    free(values);
}

static void tiny_gguf_keys(const struct file_tiny *tiny, struct file_gguf *f)
{
    static const uint32_t file_types[KERNELS_TYPES] = { 0, 1, 32, 7, 2, 3 };
    file_gguf_text(f, "general.architecture", "llama");
    file_gguf_u32(f, "general.file_type", file_types[tiny->type]);
    file_gguf_u32(f, "llama.block_count", LAYERS);
    file_gguf_u32(f, "llama.context_length", CONTEXT);
    file_gguf_u32(f, "llama.embedding_length", HIDDEN);
    file_gguf_u32(f, "llama.feed_forward_length", INTER);
    file_gguf_u32(f, "llama.attention.head_count", HEADS);
    file_gguf_u32(f, "llama.attention.head_count_kv", KV_HEADS);
    file_gguf_u32(f, "llama.rope.dimension_count", HEAD_DIM);
    file_gguf_u32(f, "llama.vocab_size", FILE_TINY_VOCAB);
    file_gguf_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    file_gguf_f32(f, "llama.rope.freq_base", 10000.0f);
    if (!tiny->no_template) {
        file_gguf_text(f, "tokenizer.chat_template", TEMPLATE);
    }
}

static void tiny_gguf_tokenizer(struct file_gguf *f)
{
    char tokens[FILE_TINY_TOKENS][24];
    const char *list[FILE_TINY_TOKENS];
    int32_t types[FILE_TINY_TOKENS];
    tiny_tokens(tokens);
    for (size_t i = 0; i < FILE_TINY_TOKENS; i++) {
        list[i] = tokens[i];
        types[i] = i < 3 ? 3 : 1;
    }
    file_gguf_text(f, "tokenizer.ggml.model", "gpt2");
    file_gguf_text(f, "tokenizer.ggml.pre", "smollm");
    file_gguf_texts(f, "tokenizer.ggml.tokens", list, FILE_TINY_TOKENS);
    file_gguf_i32s(f, "tokenizer.ggml.token_type", types, FILE_TINY_TOKENS);
    file_gguf_texts(f, "tokenizer.ggml.merges", tiny_merges, 3);
    file_gguf_u32(f, "tokenizer.ggml.bos_token_id", 1);
    file_gguf_u32(f, "tokenizer.ggml.eos_token_id", 2);
    file_gguf_u32(f, "tokenizer.ggml.unknown_token_id", 0);
    file_gguf_bool(f, "tokenizer.ggml.add_bos_token", 0);
}

void file_tiny_gguf(const struct file_tiny *tiny, struct buf *out)
{
    static const uint32_t ids[KERNELS_TYPES] = { 0, 1, 30, 8, 2, 3 };
    struct file_gguf f = { 0 };
    struct model_geometry g;
    file_tiny_geometry(&g);
    tiny_gguf_keys(tiny, &f);
    if (!tiny->no_tokenizer) {
        tiny_gguf_tokenizer(&f);
    }
    for (size_t i = 0; i < model_slot_count(&g, !tiny->untied); i++) {
        struct model_slot slot;
        struct buf bytes = BUF_INIT;
        model_slot(&g, i, &slot);
        uint64_t dims[2] = { slot.cols, slot.rows };
        tensor_bytes(tiny, &slot, i, 1, &bytes);
        file_gguf_tensor(&f, slot.gguf, slot.vector ? 0 : ids[tiny->type], slot.vector ? 1 : 2, dims, bytes.data,
                         bytes.len);
        buf_clear(&bytes);
    }
    file_gguf_end(&f, 3, out);
}

static void save_in(const char *dir, const char *name, const struct buf *b)
{
    char *path = file_path(dir, name);
    ck_assert(!b->failed);
    file_save(path, b->data, b->len);
    free(path);
}

static void tiny_weights(const struct file_tiny *tiny, const char *dir)
{
    static const char *const names[] = { "F32", "F16", "BF16" };
    struct model_geometry g;
    struct buf header = BUF_INIT;
    struct buf data = BUF_INIT;
    struct buf file = BUF_INIT;
    file_tiny_geometry(&g);
    buf_adds(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < model_slot_count(&g, !tiny->untied); i++) {
        struct model_slot slot;
        size_t from = data.len;
        model_slot(&g, i, &slot);
        tensor_bytes(tiny, &slot, i, 0, &data);
        buf_addf(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", slot.hf, slot.vector ? "F32" : names[tiny->type]);
        if (!slot.vector) {
            buf_addf(&header, "%zu,", slot.rows);
        }
        buf_addf(&header, "%zu],\"data_offsets\":[%zu,%zu]}", slot.cols, from, data.len);
    }
    buf_addc(&header, '}');
    file_safetensors(buf_str(&header), data.data, data.len, &file);
    save_in(dir, "model.safetensors", &file);
    buf_clear(&header);
    buf_clear(&data);
    buf_clear(&file);
}

static void tiny_tokenizer_json(const char *dir)
{
    char tokens[FILE_TINY_TOKENS][24];
    struct buf b = BUF_INIT;
    tiny_tokens(tokens);
    buf_adds(&b, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (int i = 0; i < 3; i++) {
        buf_addf(&b, "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                     "\"normalized\":false,\"special\":true}", i ? "," : "", i, tokens[i]);
    }
    buf_adds(&b, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
                 "{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                 "\"trim_offsets\":true,\"use_regex\":true}]},\"post_processor\":null,\"decoder\":{\"type\":"
                 "\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":"
                 "\"BPE\",\"dropout\":null,\"unk_token\":null,\"ignore_merges\":false,\"vocab\":{");
    for (int i = 0; i < FILE_TINY_TOKENS; i++) {
        const char *escape = strcmp(tokens[i], "\"") == 0 || strcmp(tokens[i], "\\") == 0 ? "\\" : "";
        buf_addf(&b, "%s\"%s%s\":%d", i ? "," : "", escape, tokens[i], i);
    }
    buf_addf(&b, "},\"merges\":[\"%s\",\"%s\",\"%s\"]}}", tiny_merges[0], tiny_merges[1], tiny_merges[2]);
    save_in(dir, "tokenizer.json", &b);
    buf_clear(&b);
}

static void tiny_tokenizer_config(const char *dir)
{
    struct buf b = BUF_INIT;
    buf_adds(&b, "{\"bos_token\":\"<|im_start|>\",\"eos_token\":{\"content\":\"<|im_end|>\"},\"chat_template\":\"");
    for (const char *s = TEMPLATE; *s; s++) {
        buf_adds(&b, *s == '\n' ? "\\n" : *s == '"' ? "\\\"" : (char[]){ *s, 0 });
    }
    buf_adds(&b, "\"}");
    save_in(dir, "tokenizer_config.json", &b);
    buf_clear(&b);
}

void file_tiny_directory(const struct file_tiny *tiny, const char *dir)
{
    struct buf b = BUF_INIT;
    buf_addf(&b, "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":%d,"
                 "\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
                 "\"vocab_size\":%d,\"max_position_embeddings\":%d,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
                 "\"hidden_act\":\"silu\",\"tie_word_embeddings\":%s,\"bos_token_id\":1,\"eos_token_id\":2}",
             HIDDEN, INTER, LAYERS, HEADS, KV_HEADS, FILE_TINY_VOCAB, CONTEXT, tiny->untied ? "false" : "true");
    save_in(dir, "config.json", &b);
    buf_clear(&b);
    buf_adds(&b, "{\"eos_token_id\":[2,0]}");
    save_in(dir, "generation_config.json", &b);
    buf_clear(&b);
    tiny_weights(tiny, dir);
    if (!tiny->no_tokenizer) {
        tiny_tokenizer_json(dir);
    }
    if (!tiny->no_template) {
        tiny_tokenizer_config(dir);
    }
}
