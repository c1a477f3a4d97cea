/* SPDX-License-Identifier: MIT */
/* The daemon's tables and its page agree. */
#include "config.h"

#include "testing.h"

#include "base/buf.h"
#include "base/file.h"
#include "server/app.h"

#include <stdio.h>
#include <string.h>

static struct buf page = BUF_INIT;

static void setup(void)
{
    struct claas_error err = ERR_INIT;
    char *path = path_join(getenv("abs_top_srcdir"), "man/claasd.8");
    ck_ok(file_read(path, 1 << 20, &page, &err), err);
    free(path);
}

static void teardown(void)
{
    buf_clear(&page);
}

/* How often `mark` stands in the page. */
static size_t count(const char *mark)
{
    size_t n = 0;
    for (const char *p = buf_str(&page); (p = strstr(p, mark)) != NULL; p++) {
        n++;
    }
    return n;
}

START_TEST(the_page_tells_every_route)
{
    static const char *const methods[] = { "GET", "POST", "DELETE" };
    size_t on_page = 0;
    for (size_t i = 0; i < app_n_routes; i++) {
        char line[128];
        (void)snprintf(line, sizeof line, "\n.It Ic %s %s\n", app_routes[i].method,
                       app_routes[i].path);
        ck_assert_msg(count(line) == 1, "the page lacks the route:%s", line);
    }
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        char mark[32];
        (void)snprintf(mark, sizeof mark, "\n.It Ic %s /", methods[i]);
        on_page += count(mark);
    }
    ck_assert_uint_eq(on_page, app_n_routes);
}
END_TEST

START_TEST(the_page_tells_every_metric)
{
    static const char *const names[] = {
#define X(name, type, help) name,
        METRICS_TABLE(X)
#undef X
    };
    const size_t n = sizeof names / sizeof names[0];
    const char *section = strstr(buf_str(&page), "\n.Sh METRICS\n");
    ck_assert_ptr_nonnull(section);
    for (size_t i = 0; i < n; i++) {
        const char *at = strstr(section, names[i]);
        ck_assert_msg(at != NULL, "the page lacks the metric '%s'", names[i]);
    }
    size_t on_page = 0; /* and no others */
    const char *end = strstr(section, "\n.Sh ENVIRONMENT\n");
    for (const char *p = section; p < end; p++) {
        on_page += strchr(" \n", p[-1]) && (strncmp(p, "claas_", 6) == 0 || strncmp(p, "process_", 8) == 0);
    }
    ck_assert_uint_eq(on_page, n);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("server");
    TCase *t = tcase_create("page");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, the_page_tells_every_route);
    tcase_add_test(t, the_page_tells_every_metric);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
