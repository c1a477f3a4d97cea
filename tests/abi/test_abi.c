/* SPDX-License-Identifier: MIT */
/* The layout of the public structs against what was recorded for this number of the ABI: a change that nobody meant
 * must fail here, one that somebody meant raises the number. */
#include "config.h"

#include "unit/testing.h"

#include <claas/plugin.h>

#include <stddef.h>

struct row {
    const char *name;
    size_t offset;
    size_t bytes;
    size_t recorded_offset;
    size_t recorded_bytes;
};

#define STRUCT(type, bytes) { #type, 0, sizeof(struct type), 0, bytes },
#define MEMBER(type, member, offset, bytes) \
    { #type "." #member, offsetof(struct type, member), sizeof(((struct type *)0)->member), offset, bytes },
static const struct row rows[] = {
#include "abi/layout-0.1.h"
};

START_TEST(layout_is_as_recorded)
{
    const struct row *row = &rows[_i];
    ck_assert_msg(row->offset == row->recorded_offset, "%s is at %zu, recorded %zu", row->name, row->offset,
                  row->recorded_offset);
    ck_assert_msg(row->bytes == row->recorded_bytes, "%s has %zu bytes, recorded %zu", row->name, row->bytes,
                  row->recorded_bytes);
}
END_TEST

START_TEST(numbers_are_as_recorded)
{
    static const struct {
        long now;
        long recorded;
    } numbers[] = {
        { CLAAS_ABI, 1 },
        { CLAAS_OK, 0 }, { CLAAS_ERR_INVALID, 1 }, { CLAAS_ERR_NOT_FOUND, 2 }, { CLAAS_ERR_CONFLICT, 3 },
        { CLAAS_ERR_UNAUTHORISED, 4 }, { CLAAS_ERR_FORBIDDEN, 5 }, { CLAAS_ERR_UNSUPPORTED, 6 },
        { CLAAS_ERR_EXHAUSTED, 7 }, { CLAAS_ERR_UNAVAILABLE, 8 }, { CLAAS_ERR_TIMEOUT, 9 },
        { CLAAS_ERR_CANCELLED, 10 }, { CLAAS_ERR_CORRUPT, 11 }, { CLAAS_ERR_INTERNAL, 12 },
        { CLAAS_RETRY, 1 }, { CLAAS_MAYBE, 2 },
        { CLAAS_BOOL, 0 }, { CLAAS_INT, 1 }, { CLAAS_REAL, 2 }, { CLAAS_TEXT, 3 }, { CLAAS_LIST, 4 },
        { CLAAS_PATH, 5 }, { CLAAS_BYTES, 6 }, { CLAAS_MS, 7 }, { CLAAS_JSON, 8 },
        { CLAAS_REQUIRED, 1 }, { CLAAS_SECRET, 2 }, { CLAAS_RELOADABLE, 4 },
        { CLAAS_LOG_ERROR, 0 }, { CLAAS_LOG_WARNING, 1 }, { CLAAS_LOG_INFO, 2 }, { CLAAS_LOG_DEBUG, 3 },
        { CLAAS_LOG_TRACE, 4 }, { CLAAS_METRIC_ADD, 0 }, { CLAAS_METRIC_SET, 1 },
        { CLAAS_SERVE, 1 }, { CLAAS_TRAIN, 2 }, { CLAAS_ABOUT, 4 },
        { CLAAS_STORE_ATOMIC, 1 }, { CLAAS_IF_ABSENT, 1 },
        { CLAAS_GENERATION_PROMPT, 1 }, { CLAAS_SPECIAL, 2 },
        { CLAAS_CAN_CHAT, 1 }, { CLAAS_CAN_SCORE, 2 }, { CLAAS_CAN_TOP, 4 },
        { CLAAS_PIECE_PROMPT, 1 }, { CLAAS_PIECE_LAST, 2 },
        { CLAAS_PARALLEL, 1 }, { CLAAS_ENGINE, 1 }, { CLAAS_STORAGE, 2 }, { CLAAS_INFERENCE, 4 },
        { CLAAS_TEXT_KIND, 8 },
        { CLAAS_STARTING, 0 }, { CLAAS_READY, 1 }, { CLAAS_DEGRADED, 2 }, { CLAAS_DOWN, 3 },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        ck_assert_msg(numbers[i].now == numbers[i].recorded, "number %zu of the list is %ld, recorded %ld", i,
                      numbers[i].now, numbers[i].recorded);
    }
}
END_TEST

START_TEST(has_tells_what_the_other_side_knows)
{
    struct claas_plugin plugin = { .size = offsetof(struct claas_plugin, extension) };
    ck_assert(CLAAS_HAS(&plugin, struct claas_plugin, text));
    ck_assert(!CLAAS_HAS(&plugin, struct claas_plugin, extension));
    plugin.size = sizeof plugin;
    ck_assert(CLAAS_HAS(&plugin, struct claas_plugin, extension));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("abi");
    TCase *t = tcase_create("layout");
    tcase_add_loop_test(t, layout_is_as_recorded, 0, sizeof rows / sizeof rows[0]);
    tcase_add_test(t, numbers_are_as_recorded);
    tcase_add_test(t, has_tells_what_the_other_side_knows);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
