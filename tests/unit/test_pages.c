/* SPDX-License-Identifier: MIT */
/* The pages of our plugins tell every option with its default, and no others. */
#include "config.h"

#include "testing.h"

#include "base/buf.h"
#include "base/file.h"
#include "host/host.h"
#include "plugins/local/train.h"

#include <stdio.h>
#include <string.h>

static struct buf page = BUF_INIT;
static struct host *host;
static struct claas_error err;

static void setup(void)
{
    err = ERR_INIT;
    ck_ok(host_new(&host, NULL, &err), err);
}

static void teardown(void)
{
    buf_clear(&page);
    host_free(host);
}

/* The section of a page, ended by a zero; valid until the next one is read. */
static char *section(const char *name, const char *title)
{
    char mark[64];
    char *source = path_join(getenv("abs_top_srcdir"), name);
    buf_cut(&page, 0);
    ck_ok(file_read(source, 1 << 20, &page, &err), err);
    free(source);
    (void)snprintf(mark, sizeof mark, "\n.Sh %s\n", title);
    char *from = strstr(page.data, mark);
    ck_assert_msg(from != NULL, "'%s' has no section %s", name, title);
    char *end = strstr(from + 1, "\n.Sh ");
    if (end) {
        *end = '\0';
    }
    return from;
}

/* What the page says of one row, cut out of it. */
static void check_row(const struct claas_option *row, const char *text)
{
    char mark[512];
    char item[2048];
    (void)snprintf(mark, sizeof mark, "\n.It Cm %s\n", row->name);
    const char *at = strstr(text, mark);
    ck_assert_msg(at != NULL, "the page lacks '%s'", row->name);
    at += strlen(mark);
    const char *end = strstr(at, "\n.It ");
    end = end ? end : strstr(at, "\n.El");
    ck_assert_ptr_nonnull(end);
    (void)snprintf(item, sizeof item, "%.*s\n", (int)(end - at), at);
    if (row->flags & CLAAS_REQUIRED) {
        ck_assert_msg(strstr(item, "\nRequired.\n") != NULL, "'%s' is required", row->name);
    } else if (row->def && row->def[0] && row->type != CLAAS_LIST) {
        (void)snprintf(mark, sizeof mark, "\nDefault:\n.Cm %s ", row->def);
        ck_assert_msg(strstr(item, mark) != NULL, "the page lacks of '%s':%s", row->name, mark);
    }
}

static void check_table(const struct claas_option *rows, char *text)
{
    size_t n = 0;
    size_t on_page = 0;
    for (; rows[n].name; n++) {
        check_row(&rows[n], text);
    }
    for (const char *p = text; (p = strstr(p, "\n.It Cm ")) != NULL; p++) {
        on_page++;
    }
    ck_assert_uint_eq(on_page, n);
}

START_TEST(options_of_plugins)
{
    static const char *const names[] = { "cpu", "fs" };
    char file[64];
    struct host_module *module = NULL;
    (void)snprintf(file, sizeof file, "man/claas-%s.7", names[_i]);
    ck_ok(host_module_load(host, names[_i], &module, &err), err);
    check_table(host_module_plugin(module)->options, section(file, "OPTIONS"));
}
END_TEST

START_TEST(settings_of_a_step)
{
    check_table(train_options, section("man/claas-cpu.7", "SETTINGS OF A STEP"));
}
END_TEST

START_TEST(creation_of_an_adapter)
{
    check_table(train_creation, section("man/claas-cpu.7", "CREATION OF AN ADAPTER"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("pages");
    TCase *t = tcase_create("plugins");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, options_of_plugins, 0, 2);
    tcase_add_test(t, settings_of_a_step);
    tcase_add_test(t, creation_of_an_adapter);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
