/* SPDX-License-Identifier: MIT */
/* What every unit test needs: check, an error to hand in, one main. */
#ifndef UNIT_TESTING_H
#define UNIT_TESTING_H

#include "base/err.h"

#include <check.h>
#include <stdlib.h>

/* Fails with the message of the error when rc is not 0. */
#define ck_ok(rc, err) ck_assert_msg((rc) == 0, "%s", (err).message)
/* The call failed with this code, and said something. */
#define ck_failed(rc, code_wanted, err) \
    do { \
        ck_assert_int_eq((rc), (code_wanted)); \
        ck_assert_int_eq((err).code, (code_wanted)); \
        ck_assert_msg((err).message[0] != '\0', "an error without a message"); \
    } while (0)

/* Runs a suite as TAP on standard output: `int main(void) { return test_main(suite()); }`. */
static inline int test_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
