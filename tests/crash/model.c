/* SPDX-License-Identifier: MIT */
/* The tiny model. Its maker reports to check, so it is called out of a test of check's. */
#include "config.h"

#include "crash.h"

#include "unit/file_maker.h"
#include "unit/testing.h"

static const char *model_path;

START_TEST(the_model_is_made)
{
    const struct file_tiny tiny = { .seed = 7, .type = KERNELS_F32 };
    struct buf b = BUF_INIT;
    file_tiny_gguf(&tiny, &b);
    file_save(model_path, b.data, b.len);
    buf_clear(&b);
}
END_TEST

int model_make(const char *path)
{
    Suite *s = suite_create("model");
    TCase *t = tcase_create("model");
    tcase_add_test(t, the_model_is_made);
    suite_add_tcase(s, t);
    model_path = path;
    SRunner *runner = srunner_create(s);
    srunner_set_tap(runner, "/dev/null");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}
