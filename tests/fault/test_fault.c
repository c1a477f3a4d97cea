/* SPDX-License-Identifier: MIT */
/* The n-th call of the system fails, for all n: whatever it is, an error that says so. */
#include "config.h"

#include "fault/fault.h"

#include "base/json.h"
#include "base/sha256.h"
#include "testing.h"

#include <errno.h>

/* ---- single functions, which end well or say EXHAUSTED ---- */

START_TEST(json_without_memory)
{
    static const char text[] = "{\"a\": [1, \"two\", {\"three\": null}], \"b\": {\"c\": true, \"d\": \"e\"}}";
    int reached = 1;
    for (long n = 1; reached; n++) {
        struct claas_error e = ERR_INIT;
        cJSON *v = NULL;
        fault_arm(FAULT_ALLOC, n, (enum fault_mode)_i);
        int rc = json_parse(text, sizeof text - 1, "the text", &v, &e);
        reached = fault_disarm() >= n;
        if (reached) {
            ck_failed(rc, CLAAS_ERR_EXHAUSTED, e);
            ck_assert_ptr_null(v);
        } else {
            ck_ok(rc, e);
            cJSON_Delete(v);
            ck_assert_int_gt(n, 10);
        }
    }
}
END_TEST

START_TEST(malformed_json_is_no_lack_of_memory)
{
    struct claas_error e = ERR_INIT;
    cJSON *v = NULL;
    errno = ENOMEM; /* somebody's, long ago */
    ck_failed(json_parse("{\"a\": }", 8, "the text", &v, &e), CLAAS_ERR_INVALID, e);
}
END_TEST

START_TEST(digest_without_memory)
{
    struct claas_digest right;
    ck_assert(sha256_parse("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", &right));
    int reached = 1;
    for (long n = 1; reached; n++) {
        struct claas_error e = ERR_INIT;
        struct claas_digest d = { .b = { 0 } };
        fault_arm(FAULT_ALLOC, n, (enum fault_mode)_i);
        int rc = sha256_of("test", 4, &d, &e);
        reached = fault_disarm() >= n;
        if (rc) {
            ck_failed(rc, CLAAS_ERR_EXHAUSTED, e);
        } else {
            ck_assert(sha256_equal(&d, &right));
        }
        ck_assert(rc == 0 || reached);
        ck_assert(n > 1 || rc != 0);
        ck_assert_int_eq(sha256_of("test", 4, &d, &e), 0);
        ck_assert(sha256_equal(&d, &right));
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("fault");
    TCase *t = tcase_create("fault");
    tcase_add_loop_test(t, json_without_memory, FAULT_ONCE, FAULT_FROM + 1);
    tcase_add_test(t, malformed_json_is_no_lack_of_memory);
    tcase_add_loop_test(t, digest_without_memory, FAULT_ONCE, FAULT_FROM + 1);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
