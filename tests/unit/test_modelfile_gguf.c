/* SPDX-License-Identifier: MIT */
/* The GGUF container: what a good file says, and every way we know of to break one. */
#include "config.h"

#include "testing.h"

#include "file_maker.h"

#include "base/file.h"
#include "plugins/local/gguf.h"

#include <string.h>
#include <unistd.h>

static char *dir;
static char *path;

static void setup(void)
{
    dir = file_temp_dir();
    path = file_path(dir, "model.gguf");
}

static void teardown(void)
{
    struct claas_error err = ERR_INIT;
    ck_ok(dir_remove(dir, &err), err);
    free(path);
    free(dir);
}

/* Two tensors (64 x 2 F32, 64 x 3 Q8_0) and one key of each kind we look up. */
static void make_good(struct file_gguf *f)
{
    static const char *const words[] = { "one", "zw\xC3\xB6lf", "" };
    static const int32_t numbers[] = { 1, -2, 3 };
    static const uint64_t dims[2][2] = { { 64, 2 }, { 64, 3 } };
    static uint8_t data[512];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 7);
    }
    *f = (struct file_gguf){ 0 };
    file_gguf_text(f, "general.architecture", "llama");
    file_gguf_u32(f, "a.count", 30);
    file_gguf_f32(f, "a.real", 0.5f);
    file_gguf_bool(f, "a.bool", 1);
    file_gguf_texts(f, "a.words", words, 3);
    file_gguf_i32s(f, "a.numbers", numbers, 3);
    file_gguf_tensor(f, "first", 0, 2, dims[0], data, 512);
    file_gguf_tensor(f, "second", 8, 2, dims[1], data, 204);
}

static int open_bytes(const void *data, size_t n, struct gguf **g, struct claas_error *err)
{
    file_save(path, data, n);
    return gguf_open(path, g, err);
}

/* Reads every byte a reader may reach, so that a sanitizer sees what lies outside of the file. */
static unsigned touch(const struct gguf *g)
{
    unsigned sum = 0;
    for (size_t i = 0; i < g->n_values; i++) {
        for (size_t j = 0; j < g->values[i].bytes; j++) {
            sum += g->values[i].data[j];
        }
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        for (size_t j = 0; j < g->tensors[i].bytes; j++) {
            sum += g->tensors[i].data[j];
        }
    }
    return sum;
}

START_TEST(good_file)
{
    struct file_gguf f;
    struct buf file = BUF_INIT;
    struct gguf *g = NULL;
    struct claas_error err = ERR_INIT;
    uint64_t count = 0;
    double real = 0;
    int flag = 0;
    struct token_text arch = { 0 };
    struct token_text *words = NULL;
    size_t n = 0;
    make_good(&f);
    file_gguf_end(&f, _i ? 3 : 2, &file);
    ck_ok(open_bytes(file.data, file.len, &g, &err), err);
    ck_ok(gguf_uint(g, "a.count", 1, 100, &count, &err), err);
    ck_assert_uint_eq(count, 30);
    ck_ok(gguf_real(g, "a.real", &real, &err), err);
    ck_assert_double_eq(real, 0.5);
    ck_ok(gguf_bool(g, "a.bool", &flag, &err), err);
    ck_assert_int_eq(flag, 1);
    ck_ok(gguf_text(g, "general.architecture", &arch, &err), err);
    ck_assert_mem_eq(arch.s, "llama", 5);
    ck_ok(gguf_texts(g, "a.words", &words, &n, &err), err);
    ck_assert_uint_eq(n, 3);
    ck_assert_uint_eq(words[1].n, 6);
    ck_assert_uint_eq(words[2].n, 0);
    free(words);
    ck_assert_ptr_nonnull(gguf_tensor(g, "first"));
    const struct gguf_tensor *t = gguf_tensor(g, "second");
    ck_assert_uint_eq(t->bytes, 204);
    ck_assert_uint_eq(t->dims[0], 64);
    ck_assert_uint_eq(t->dims[1], 3);
    ck_assert_uint_eq(t->data[1], 7);
    ck_assert_ptr_null(gguf_tensor(g, "third"));
    ck_assert_ptr_null(gguf_find(g, "a"));
    /* Wrong types and ranges are told, what is absent leaves the value alone. */
    ck_failed(gguf_uint(g, "a.count", 31, 100, &count, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(gguf_uint(g, "a.real", 0, 100, &count, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(gguf_real(g, "a.count", &real, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(gguf_text(g, "a.words", &arch, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(gguf_texts(g, "a.numbers", &words, &n, &err), CLAAS_ERR_CORRUPT, err);
    ck_ok(gguf_uint(g, "absent", 0, 1, &count, &err), err);
    ck_assert_uint_eq(count, 30);
    gguf_close(g);
    buf_clear(&file);
}
END_TEST

START_TEST(every_truncation)
{
    struct file_gguf f;
    struct buf file = BUF_INIT;
    make_good(&f);
    file_gguf_end(&f, 3, &file);
    size_t used = file.len - (32 - 204 % 32); /* the last padding may be missing */
    for (size_t n = 0; n < used; n++) {
        struct gguf *g = NULL;
        struct claas_error err = ERR_INIT;
        int rc = open_bytes(file.data, n, &g, &err);
        ck_assert_msg(rc == CLAAS_ERR_CORRUPT, "cut at %zu: %d %s", n, rc, err.message);
        ck_assert_ptr_nonnull(strstr(err.message, "model.gguf"));
    }
    buf_clear(&file);
}
END_TEST

START_TEST(every_byte_flipped)
{
    static const uint8_t masks[] = { 0x01, 0x80, 0xFF, 0x20 };
    struct file_gguf f;
    struct buf file = BUF_INIT;
    size_t opened = 0;
    size_t refused = 0;
    make_good(&f);
    file_gguf_end(&f, 3, &file);
    for (size_t i = 0; i < file.len - 700; i++) {
        struct gguf *g = NULL;
        struct claas_error err = ERR_INIT;
        file.data[i] = (char)(file.data[i] ^ masks[_i]);
        if (open_bytes(file.data, file.len, &g, &err)) {
            ck_assert(err.message[0] != '\0');
            refused++;
        } else {
            opened += touch(g) != 0;
            gguf_close(g);
        }
        file.data[i] = (char)(file.data[i] ^ masks[_i]);
    }
    ck_assert_uint_gt(opened, 0); /* letters of a key or a string may differ */
    ck_assert_uint_gt(refused, 100);
    buf_clear(&file);
}
END_TEST

/* ---- one rule broken at a time ---- */

struct broken {
    const char *name;
    int code;
    const char *says; /* part of the message */
    void (*make)(struct file_gguf *f, struct buf *out);
};

static void finish(struct file_gguf *f, struct buf *out)
{
    file_gguf_end(f, 3, out);
}

static void one_info(struct file_gguf *f, const char *name, uint32_t rank, const uint64_t *dims, uint32_t type,
                     uint64_t offset)
{
    file_raw_text(&f->infos, name);
    file_raw_u32(&f->infos, rank);
    buf_add(&f->infos, dims, rank * sizeof *dims);
    file_raw_u32(&f->infos, type);
    file_raw_u64(&f->infos, offset);
    f->n_tensors++;
}

static void tensor_at(struct file_gguf *f, uint64_t offset)
{
    static const uint64_t dims[] = { 8, 4 };
    static const uint8_t data[256];
    one_info(f, "a", 2, dims, 0, 0);
    one_info(f, "b", 2, dims, 0, offset);
    buf_add(&f->data, data, 256);
}

static void offset_overlaps(struct file_gguf *f, struct buf *out)
{
    tensor_at(f, 64);
    finish(f, out);
}

static void offset_same(struct file_gguf *f, struct buf *out)
{
    tensor_at(f, 0);
    finish(f, out);
}

static void offset_gap(struct file_gguf *f, struct buf *out)
{
    tensor_at(f, 160);
    finish(f, out);
}

static void offset_beyond(struct file_gguf *f, struct buf *out)
{
    tensor_at(f, UINT64_MAX - 31);
    finish(f, out);
}

static void data_short(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 1 << 20, 1 << 20 };
    one_info(f, "a", 2, dims, 0, 0);
    finish(f, out);
}

static void product_overflows(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 1ull << 32, 1ull << 32, 4 };
    one_info(f, "a", 3, dims, 0, 0);
    finish(f, out);
}

static void product_wraps_to_small(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 1ull << 62, 4, 2 };
    one_info(f, "a", 3, dims, 0, 0);
    finish(f, out);
}

static void bytes_overflow(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 1ull << 31, 1ull << 31 };
    one_info(f, "a", 2, dims, 0, 0);
    finish(f, out);
}

static void dimension_negative(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { UINT64_MAX };
    one_info(f, "a", 1, dims, 0, 0);
    finish(f, out);
}

static void rank_five(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 1, 1, 1, 1, 1 };
    one_info(f, "a", 5, dims, 0, 0);
    finish(f, out);
}

static void type_unknown(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 32 };
    one_info(f, "a", 1, dims, 99, 0);
    finish(f, out);
}

static void type_iq(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 256 };
    one_info(f, "a", 1, dims, 23, 0);
    finish(f, out);
}

static void partial_block(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 48, 2 };
    one_info(f, "a", 2, dims, 3, 0);
    finish(f, out);
}

static void tensor_twice(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 8 };
    one_info(f, "a", 1, dims, 0, 0);
    one_info(f, "a", 1, dims, 0, 32);
    buf_add(&f->data, (uint8_t[64]){ 0 }, 64);
    finish(f, out);
}

static void tensor_name_long(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 8 };
    one_info(f, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 1, dims, 0, 0);
    finish(f, out);
}

static void tensor_name_empty(struct file_gguf *f, struct buf *out)
{
    static const uint64_t dims[] = { 8 };
    one_info(f, "", 1, dims, 0, 0);
    finish(f, out);
}

static void key_twice(struct file_gguf *f, struct buf *out)
{
    file_gguf_u32(f, "a", 1);
    file_gguf_u32(f, "b", 1);
    file_gguf_u32(f, "a", 2);
    finish(f, out);
}

static void key_empty(struct file_gguf *f, struct buf *out)
{
    file_gguf_u32(f, "", 1);
    finish(f, out);
}

static void bool_two(struct file_gguf *f, struct buf *out)
{
    file_gguf_bool(f, "a", 2);
    finish(f, out);
}

static void text_not_utf8(struct file_gguf *f, struct buf *out)
{
    file_gguf_text(f, "a", "\xC0\xAF");
    finish(f, out);
}

static void value_type_unknown(struct file_gguf *f, struct buf *out)
{
    file_raw_text(&f->values, "a");
    file_raw_u32(&f->values, 13);
    f->n_values++;
    finish(f, out);
}

static void array_of(struct file_gguf *f, uint32_t type, uint64_t n)
{
    file_raw_text(&f->values, "a");
    file_raw_u32(&f->values, 9);
    file_raw_u32(&f->values, type);
    file_raw_u64(&f->values, n);
    f->n_values++;
}

static void array_of_arrays(struct file_gguf *f, struct buf *out)
{
    array_of(f, 9, 1);
    finish(f, out);
}

static void array_huge(struct file_gguf *f, struct buf *out)
{
    array_of(f, 10, UINT64_MAX / 4);
    finish(f, out);
}

static void array_past_end(struct file_gguf *f, struct buf *out)
{
    array_of(f, 10, 1 << 20);
    finish(f, out);
}

static void string_past_end(struct file_gguf *f, struct buf *out)
{
    file_raw_text(&f->values, "a");
    file_raw_u32(&f->values, 8);
    file_raw_u64(&f->values, UINT64_MAX - 8);
    f->n_values++;
    finish(f, out);
}

static void alignment_three(struct file_gguf *f, struct buf *out)
{
    file_gguf_u32(f, "general.alignment", 3);
    finish(f, out);
}

static void alignment_zero(struct file_gguf *f, struct buf *out)
{
    file_gguf_u32(f, "general.alignment", 0);
    finish(f, out);
}

static void alignment_text(struct file_gguf *f, struct buf *out)
{
    file_gguf_text(f, "general.alignment", "32");
    finish(f, out);
}

static void too_many_keys(struct file_gguf *f, struct buf *out)
{
    f->n_values = UINT64_MAX;
    finish(f, out);
}

static void too_many_tensors(struct file_gguf *f, struct buf *out)
{
    f->n_tensors = UINT64_MAX / 64;
    finish(f, out);
}

static void trailing(struct file_gguf *f, struct buf *out)
{
    tensor_at(f, 128);
    finish(f, out);
    buf_adds(out, "PK\x03\x04 and the rest of another file");
}

static void version_one(struct file_gguf *f, struct buf *out)
{
    file_gguf_end(f, 1, out);
}

static void other_byte_order(struct file_gguf *f, struct buf *out)
{
    file_gguf_end(f, 3u << 24, out);
}

static void not_gguf(struct file_gguf *f, struct buf *out)
{
    finish(f, out);
    out->data[0] = 'P';
}

static const struct broken broken[] = {
    { "overlap", CLAAS_ERR_CORRUPT, "overlaps", offset_overlaps },
    { "same offset", CLAAS_ERR_CORRUPT, "overlaps", offset_same },
    { "gap", CLAAS_ERR_CORRUPT, "offset", offset_gap },
    { "offset beyond", CLAAS_ERR_CORRUPT, "offset", offset_beyond },
    { "data short", CLAAS_ERR_CORRUPT, "past the end", data_short },
    { "product", CLAAS_ERR_CORRUPT, "overflows", product_overflows },
    { "product wraps", CLAAS_ERR_CORRUPT, "overflows", product_wraps_to_small },
    { "bytes", CLAAS_ERR_CORRUPT, "overflows", bytes_overflow },
    { "negative", CLAAS_ERR_CORRUPT, "negative", dimension_negative },
    { "rank", CLAAS_ERR_CORRUPT, "4 dimensions", rank_five },
    { "type 99", CLAAS_ERR_UNSUPPORTED, "99", type_unknown },
    { "type IQ4_XS", CLAAS_ERR_UNSUPPORTED, "IQ4_XS", type_iq },
    { "block", CLAAS_ERR_CORRUPT, "blocks", partial_block },
    { "tensor twice", CLAAS_ERR_CORRUPT, "twice", tensor_twice },
    { "long name", CLAAS_ERR_CORRUPT, "63 bytes", tensor_name_long },
    { "no name", CLAAS_ERR_CORRUPT, "empty name", tensor_name_empty },
    { "key twice", CLAAS_ERR_CORRUPT, "'a'", key_twice },
    { "no key", CLAAS_ERR_CORRUPT, "empty key", key_empty },
    { "bool", CLAAS_ERR_CORRUPT, "bool", bool_two },
    { "UTF-8", CLAAS_ERR_CORRUPT, "UTF-8", text_not_utf8 },
    { "value type", CLAAS_ERR_CORRUPT, "type of value", value_type_unknown },
    { "array of arrays", CLAAS_ERR_CORRUPT, "array of arrays", array_of_arrays },
    { "huge array", CLAAS_ERR_CORRUPT, "2^30", array_huge },
    { "array past end", CLAAS_ERR_CORRUPT, "ends inside", array_past_end },
    { "string past end", CLAAS_ERR_CORRUPT, "2^30", string_past_end },
    { "alignment 3", CLAAS_ERR_CORRUPT, "power of two", alignment_three },
    { "alignment 0", CLAAS_ERR_CORRUPT, "power of two", alignment_zero },
    { "alignment text", CLAAS_ERR_CORRUPT, "power of two", alignment_text },
    { "keys", CLAAS_ERR_CORRUPT, "65536", too_many_keys },
    { "tensors", CLAAS_ERR_CORRUPT, "100000", too_many_tensors },
    { "trailing", CLAAS_ERR_CORRUPT, "more bytes", trailing },
    { "version 1", CLAAS_ERR_UNSUPPORTED, "version 1", version_one },
    { "byte order", CLAAS_ERR_UNSUPPORTED, "byte order", other_byte_order },
    { "magic", CLAAS_ERR_CORRUPT, "GGUF", not_gguf },
};

START_TEST(broken_rule)
{
    const struct broken *b = &broken[_i];
    struct file_gguf f = { 0 };
    struct buf file = BUF_INIT;
    struct gguf *g = NULL;
    struct claas_error err = ERR_INIT;
    b->make(&f, &file);
    int rc = open_bytes(file.data, file.len, &g, &err);
    ck_assert_msg(rc == b->code, "%s: %d %s", b->name, rc, err.message);
    ck_assert_msg(strstr(err.message, b->says) != NULL, "%s: %s", b->name, err.message);
    ck_assert_msg(strstr(err.message, "model.gguf") != NULL, "%s: %s", b->name, err.message);
    buf_clear(&file);
}
END_TEST

START_TEST(no_file)
{
    struct gguf *g = NULL;
    struct claas_error err = ERR_INIT;
    ck_failed(gguf_open(path, &g, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(open_bytes("", 0, &g, &err), CLAAS_ERR_CORRUPT, err);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("modelfile_gguf");
    TCase *t = tcase_create("gguf");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, good_file, 0, 2);
    tcase_add_test(t, every_truncation);
    tcase_add_loop_test(t, every_byte_flipped, 0, 4);
    tcase_add_loop_test(t, broken_rule, 0, sizeof broken / sizeof broken[0]);
    tcase_add_test(t, no_file);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
