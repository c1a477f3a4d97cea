/* SPDX-License-Identifier: MIT */
/* What the daemon is told by others: the trace a request belongs to. */
#include "config.h"

#include "testing.h"

#include "server/trace.h"

#include <string.h>

#define ID "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"

START_TEST(traceparents_are_read_strictly)
{
    static const struct {
        const char *text;
        int ok;
        unsigned flags;
    } rows[] = {
        { "00-" ID "-" SPAN "-01", 1, 1 },
        { "00-" ID "-" SPAN "-00", 1, 0 },
        { "00-" ID "-" SPAN "-ff", 1, 1 },           /* flags that we do not know are not passed on */
        { "01-" ID "-" SPAN "-01", 1, 1 },           /* a later version, read as ours */
        { "cc-" ID "-" SPAN "-01-what-the-future", 1, 1 },
        { "cc-" ID "-" SPAN "-01.what", 0, 0 },
        { "00-" ID "-" SPAN "-01-more", 0, 0 },
        { "ff-" ID "-" SPAN "-01", 0, 0 },
        { "00-" ID "-" SPAN "-1", 0, 0 },
        { "00-" ID "-" SPAN "-0x", 0, 0 },
        { "00-" ID "-" SPAN "_01", 0, 0 },
        { "00-0AF7651916cd43dd8448eb211c80319c-" SPAN "-01", 0, 0 },
        { "00-00000000000000000000000000000000-" SPAN "-01", 0, 0 },
        { "00-" ID "-0000000000000000-01", 0, 0 },
        { "00-" ID "-b7ad6b716920333g-01", 0, 0 },
        { " 00-" ID "-" SPAN "-01", 0, 0 },
        { "", 0, 0 },
        { NULL, 0, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct trace t;
        int ok = trace_parse(rows[i].text, &t) == 0;
        ck_assert_msg(ok == rows[i].ok, "'%s'", rows[i].text ? rows[i].text : "(null)");
        ck_assert_str_eq(t.id, ok ? ID : "");
        ck_assert_str_eq(t.span, ok ? SPAN : "");
        ck_assert_uint_eq(t.flags, rows[i].flags);
    }
}
END_TEST

START_TEST(a_child_stays_in_its_trace)
{
    struct trace t;
    struct trace child;
    struct trace other;
    char text[TRACE_TEXT];
    ck_assert_int_eq(trace_parse("01-" ID "-" SPAN "-03-x", &t), 0);
    ck_assert_int_eq(trace_child(&t, &child), 0);
    ck_assert_int_eq(trace_child(&t, &other), 0);
    ck_assert_str_ne(child.span, other.span);
    trace_print(&child, text);
    ck_assert_uint_eq(strlen(text), TRACE_TEXT - 1);
    ck_assert(strncmp(text, "00-" ID "-", 36) == 0 && strcmp(text + 52, "-01") == 0);
    ck_assert_int_eq(trace_parse(text, &t), 0);
    ck_assert_str_eq(t.span, child.span);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("daemon");
    TCase *t = tcase_create("trace");
    tcase_add_test(t, traceparents_are_read_strictly);
    tcase_add_test(t, a_child_stays_in_its_trace);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
