/* SPDX-License-Identifier: MIT */
/* The safetensors container: a good file, what our writer makes, and every rule broken once. */
#include "config.h"

#include "testing.h"

#include "file_maker.h"

#include "base/file.h"
#include "plugins/local/safetensors.h"

#include <math.h>
#include <string.h>

static char *dir;
static char *path;

static void setup(void)
{
    dir = file_temp_dir();
    path = file_path(dir, "model.safetensors");
}

static void teardown(void)
{
    struct claas_error err = ERR_INIT;
    ck_ok(dir_remove(dir, &err), err);
    free(path);
    free(dir);
}

static int open_with(const char *header, size_t data_bytes, struct safetensors **s, struct claas_error *err)
{
    struct buf file = BUF_INIT;
    char *data = calloc(data_bytes + 1, 1);
    file_safetensors(header, data, data_bytes, &file);
    file_save(path, file.data, file.len);
    buf_clear(&file);
    free(data);
    return safetensors_open(path, s, err);
}

#define GOOD                                                                                         \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],"              \
    "\"data_offsets\":[16,28]},\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"    \
    "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[16,16]},"                        \
    "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[28,30]}}   "

START_TEST(good_file)
{
    struct safetensors *s = NULL;
    struct claas_error err = ERR_INIT;
    ck_ok(open_with(GOOD, 30, &s, &err), err);
    ck_assert_uint_eq(s->n_entries, 4);
    ck_assert_str_eq(safetensors_metadata(s, "format"), "pt");
    ck_assert_ptr_null(safetensors_metadata(s, "else"));
    const struct safetensors_entry *e = safetensors_find(s, "b");
    ck_assert_str_eq(e->dtype, "BF16");
    ck_assert_uint_eq(e->rank, 2);
    ck_assert_uint_eq(e->shape[1], 3);
    ck_assert_uint_eq(e->bytes, 12);
    ck_assert_ptr_nonnull(safetensors_find(s, "empty"));
    ck_assert_uint_eq(safetensors_find(s, "scalar")->rank, 0);
    ck_assert_ptr_null(safetensors_find(s, "c"));
    safetensors_close(s);
}
END_TEST

START_TEST(written_is_read)
{
    const struct safetensors_plan plans[] = { { "a.\"quoted\"", 2, 3 }, { "b", 1, 5 } };
    const struct safetensors_pair metadata[] = { { (char *)"format", (char *)"pt" } };
    float data[11];
    float back[6];
    struct buf file = BUF_INIT;
    struct safetensors *s = NULL;
    struct claas_error err = ERR_INIT;
    for (int i = 0; i < 11; i++) {
        data[i] = (float)i * 0.5f;
    }
    ck_ok(safetensors_header(plans, 2, metadata, 1, &file, &err), err);
    ck_assert_uint_eq(file.len % 8, 0);
    ck_assert_msg(strncmp(file.data + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"a.", 35) == 0, "%s", file.data + 8);
    buf_add(&file, data, sizeof data);
    file_save(path, file.data, file.len);
    ck_ok(safetensors_open(path, &s, &err), err);
    const struct safetensors_entry *e = safetensors_find(s, "a.\"quoted\"");
    ck_assert_ptr_nonnull(e);
    ck_ok(safetensors_floats(s, e, back, &err), err);
    ck_assert_mem_eq(back, data, sizeof back);
    ck_ok(safetensors_finite(s, e, back, &err), err);
    back[4] = NAN;
    ck_failed(safetensors_finite(s, e, back, &err), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "NaN at element 4"));
    back[4] = -INFINITY;
    ck_failed(safetensors_finite(s, e, back, &err), CLAAS_ERR_INVALID, err);
    safetensors_close(s);
    buf_clear(&file);
}
END_TEST

START_TEST(every_truncation)
{
    struct buf file = BUF_INIT;
    file_safetensors(GOOD, (uint8_t[30]){ 0 }, 30, &file);
    for (size_t n = 0; n < file.len; n++) {
        struct safetensors *s = NULL;
        struct claas_error err = ERR_INIT;
        file_save(path, file.data, n);
        int rc = safetensors_open(path, &s, &err);
        ck_assert_msg(rc == CLAAS_ERR_CORRUPT, "cut at %zu: %d %s", n, rc, err.message);
    }
    buf_clear(&file);
}
END_TEST

START_TEST(every_byte_flipped)
{
    static const uint8_t masks[] = { 0x01, 0x80, 0xFF, 0x20, 0x10 };
    struct buf file = BUF_INIT;
    unsigned sum = 0;
    size_t refused = 0;
    file_safetensors(GOOD, (uint8_t[30]){ 0 }, 30, &file);
    for (size_t i = 0; i < file.len - 30; i++) {
        struct safetensors *s = NULL;
        struct claas_error err = ERR_INIT;
        file.data[i] = (char)(file.data[i] ^ masks[_i]);
        file_save(path, file.data, file.len);
        if (safetensors_open(path, &s, &err)) {
            ck_assert(err.message[0] != '\0');
            refused++;
        } else {
            for (size_t t = 0; t < s->n_entries; t++) {
                for (size_t j = 0; j < s->entries[t].bytes; j++) {
                    sum += s->entries[t].data[j];
                }
            }
            safetensors_close(s);
        }
        file.data[i] = (char)(file.data[i] ^ masks[_i]);
    }
    ck_assert_uint_eq(sum, 0);
    ck_assert_uint_gt(refused, 50);
    buf_clear(&file);
}
END_TEST

#define T(dtype, shape, from, to) \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static const struct {
    const char *header;
    size_t bytes;
    int code;
    const char *says;
} broken[] = {
    { "{\"a\":" T("F32", "[4]", 0, 16) ",\"b\":" T("F32", "[4]", 8, 24) "}", 24, CLAAS_ERR_CORRUPT, "overlaps" },
    { "{\"a\":" T("F32", "[4]", 0, 16) ",\"b\":" T("F32", "[4]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "overlaps" },
    { "{\"a\":" T("F32", "[4]", 0, 16) ",\"b\":" T("F32", "[4]", 20, 36) "}", 36, CLAAS_ERR_CORRUPT, "gap" },
    { "{\"a\":" T("F32", "[4]", 4, 20) "}", 20, CLAAS_ERR_CORRUPT, "gap" },
    { "{\"a\":" T("F32", "[4]", 0, 16) "}", 17, CLAAS_ERR_CORRUPT, "belong to no tensor" },
    { "{\"a\":" T("F32", "[4]", 0, 16) "}", 15, CLAAS_ERR_CORRUPT, "past the end" },
    { "{\"a\":" T("F32", "[4]", 16, 0) "}", 16, CLAAS_ERR_CORRUPT, "backwards" },
    { "{\"a\":" T("F32", "[5]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "do not fit" },
    { "{\"a\":" T("F16", "[4]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "do not fit" },
    { "{\"a\":" T("F32", "[1000000000000,1000000000000]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "overflows" },
    { "{\"a\":" T("F32", "[4294967296,4294967296,2]", 0, 0) "}", 0, CLAAS_ERR_CORRUPT, "overflows" },
    { "{\"a\":" T("F4", "[3]", 0, 1) "}", 1, CLAAS_ERR_CORRUPT, "whole bytes" },
    { "{\"a\":" T("F33", "[4]", 0, 16) "}", 16, CLAAS_ERR_UNSUPPORTED, "F33" },
    { "{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, CLAAS_ERR_CORRUPT, "8 dimensions" },
    { "{\"a\":" T("F32", "[-4]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"a\":" T("F32", "[4.0]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"a\":" T("F32", "[4e0]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"a\":" T("F32", "[04]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"a\":" T("F32", "[18446744073709551620]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"a\":" T("F32", "[\"4\"]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"a\":" T("F32", "4", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "no shape" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0]}}", 16, CLAAS_ERR_CORRUPT, "data_offsets" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16],\"x\":1}}", 16, CLAAS_ERR_CORRUPT, "entry" },
    { "{\"a\":{\"dtype\":4,\"shape\":[4],\"data_offsets\":[0,16]}}", 16, CLAAS_ERR_CORRUPT, "dtype" },
    { "{\"a\":" T("F32", "[4]", 0, 16) ",\"a\":" T("F32", "[4]", 16, 32) "}", 32, CLAAS_ERR_CORRUPT, "twice" },
    { "{\"\":" T("F32", "[4]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "empty" },
    { "{\"a\":[4]}", 0, CLAAS_ERR_CORRUPT, "entry" },
    { "{\"__metadata__\":{\"a\":[\"b\"]}}", 0, CLAAS_ERR_CORRUPT, "strings" },
    { "{\"__metadata__\":\"b\"}", 0, CLAAS_ERR_CORRUPT, "object" },
    { "[]", 0, CLAAS_ERR_CORRUPT, "object" },
    { " {}", 0, CLAAS_ERR_CORRUPT, "object" },
    { "{\"a\":", 0, CLAAS_ERR_CORRUPT, "JSON" },
    { "{\"a\":" T("F32", "[4]", 0, 16) "} x", 16, CLAAS_ERR_CORRUPT, "whole numbers" },
    { "{\"\xFF\":" T("F32", "[4]", 0, 16) "}", 16, CLAAS_ERR_CORRUPT, "UTF-8" },
    { "", 0, CLAAS_ERR_CORRUPT, "object" },
};

START_TEST(broken_rule)
{
    struct safetensors *s = NULL;
    struct claas_error err = ERR_INIT;
    int rc = open_with(broken[_i].header, broken[_i].bytes, &s, &err);
    ck_assert_msg(rc == broken[_i].code, "%s: %d %s", broken[_i].header, rc, err.message);
    ck_assert_msg(strstr(err.message, broken[_i].says) != NULL, "%s: %s", broken[_i].header, err.message);
    ck_assert_msg(strstr(err.message, "model.safetensors") != NULL, "%s", err.message);
}
END_TEST

START_TEST(hostile_lengths)
{
    static const uint64_t lengths[] = { UINT64_MAX, UINT64_MAX - 7, 100000001, 100000000, 1, 0, 1ull << 63 };
    struct safetensors *s = NULL;
    struct claas_error err = ERR_INIT;
    struct buf file = BUF_INIT;
    file_raw_u64(&file, lengths[_i]);
    buf_adds(&file, "{}");
    file_save(path, file.data, file.len);
    ck_failed(safetensors_open(path, &s, &err), CLAAS_ERR_CORRUPT, err);
    buf_clear(&file);
}
END_TEST

START_TEST(deep_and_wide)
{
    struct safetensors *s = NULL;
    struct claas_error err = ERR_INIT;
    struct buf header = BUF_INIT;
    buf_adds(&header, "{\"a\":");
    for (int i = 0; i < 100000; i++) {
        buf_addc(&header, '[');
    }
    ck_failed(open_with(buf_str(&header), 0, &s, &err), CLAAS_ERR_CORRUPT, err);
    buf_clear(&header);
    buf_adds(&header, "{\"a\":[0");
    for (int i = 0; i < 2100000; i++) {
        buf_adds(&header, ",0");
    }
    buf_adds(&header, "]}");
    ck_failed(open_with(buf_str(&header), 0, &s, &err), CLAAS_ERR_CORRUPT, err);
    buf_clear(&header);
    buf_adds(&header, "{\"");
    for (int i = 0; i < 513; i++) {
        buf_addc(&header, 'n');
    }
    buf_adds(&header, "\":" T("F32", "[4]", 0, 16) "}");
    ck_failed(open_with(buf_str(&header), 16, &s, &err), CLAAS_ERR_CORRUPT, err);
    buf_clear(&header);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("modelfile_safetensors");
    TCase *t = tcase_create("safetensors");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, good_file);
    tcase_add_test(t, written_is_read);
    tcase_add_test(t, every_truncation);
    tcase_add_loop_test(t, every_byte_flipped, 0, 5);
    tcase_add_loop_test(t, broken_rule, 0, sizeof broken / sizeof broken[0]);
    tcase_add_loop_test(t, hostile_lengths, 0, 7);
    tcase_add_test(t, deep_and_wide);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
