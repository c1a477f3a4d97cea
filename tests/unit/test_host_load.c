/* SPDX-License-Identifier: MIT */
/* Loading plugins from files: what is found, what is trusted, what is refused and in which words. */
#include "config.h"

#include "testing.h"

#include "base/buf.h"
#include "base/file.h"
#include "host/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char built[4096]; /* where the test plugins were built */
static char dir[] = "/tmp/claas-host-XXXXXX";
static struct host *host;
static struct claas_error err;

static void setup(void)
{
    const char *top = getenv("abs_top_builddir");
    (void)snprintf(built, sizeof built, "%s/tests/unit/plugins/.libs", top ? top : ".");
    (void)snprintf(dir, sizeof dir, "/tmp/claas-host-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(setenv("CLAAS_PLUGIN_PATH", built, 1), 0);
    err_clear(&err);
    ck_ok(host_new(&host, NULL, &err), err);
}

static void teardown(void)
{
    host_free(host);
    ck_ok(dir_remove(dir, &err), err);
}

/* A host that looks into our own directory. */
static void look_into(const char *search)
{
    host_free(host);
    ck_assert_int_eq(setenv("CLAAS_PLUGIN_PATH", search, 1), 0);
    ck_ok(host_new(&host, NULL, &err), err);
}

/* Copies good.so to NAME of our directory. */
static char *put_good(const char *name, mode_t mode)
{
    static char path[8192];
    struct buf file = BUF_INIT;
    (void)snprintf(path, sizeof path, "%s/good.so", built);
    ck_ok(file_read(path, 1 << 24, &file, &err), err);
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_ok(file_write_durable(path, file.data, file.len, 0600, &err), err);
    buf_clear(&file);
    ck_assert_int_eq(chmod(path, mode), 0);
    return path;
}

static int load(const char *name)
{
    struct host_module *module = NULL;
    err_clear(&err);
    return host_module_load(host, name, &module, &err);
}

#define refused(name, code, words) \
    do { \
        ck_failed(load(name), code, err); \
        ck_assert_msg(strstr(err.message, words) != NULL, "'%s' not in: %s", words, err.message); \
    } while (0)

START_TEST(good_one_is_loaded_once)
{
    struct host_module *module = NULL;
    struct host_module *again = NULL;
    ck_ok(host_module_load(host, "good", &module, &err), err);
    ck_ok(host_module_load(host, "good", &again, &err), err);
    ck_assert_ptr_eq(module, again);
    ck_assert_str_eq(host_module_name(module), "good");
    ck_assert_str_eq(host_module_plugin(module)->licence, "MIT");
    ck_assert_uint_eq(host_module_kinds(module), CLAAS_STORAGE);
    ck_assert_uint_eq(host_module_options(module)->n, 1);
    ck_assert_ptr_nonnull(strstr(host_module_file(module), "/good.so"));
}
END_TEST

START_TEST(good_one_is_opened_and_called)
{
    struct host_module *module = NULL;
    struct host_instance *instance = NULL;
    struct option_values values = { 0 };
    uint32_t caps = 7;
    char scratch[4200];
    struct stat st;
    ck_ok(host_module_load(host, "good", &module, &err), err);
    ck_ok(option_values_from_json(&values, host_module_options(module), NULL, NULL, NULL, NULL, &err), err);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch/storage", dir);
    ck_ok(host_instance_open(module, "storage", CLAAS_STORAGE, &values, scratch, NULL, &instance, &err), err);
    ck_assert_ptr_null(values.values);
    ck_assert_int_eq(stat(scratch, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    ck_ok(host_storage_probe(instance, &caps, NULL, &err), err);
    ck_assert_uint_eq(caps, 0);
    host_instance_close(instance);
}
END_TEST

START_TEST(wrong_files_are_refused)
{
    refused("wrongabi", CLAAS_ERR_UNSUPPORTED, "it was built for ABI 0.2, this host has 0.1");
    refused("noentry", CLAAS_ERR_UNSUPPORTED, "has no function claas_plugin_entry");
    refused("null", CLAAS_ERR_UNSUPPORTED, "does not answer to the ABI of this host, 0.1");
    refused("small", CLAAS_ERR_UNSUPPORTED, "its plugin table says it is 64 bytes long");
    refused("borrowed", CLAAS_ERR_UNSUPPORTED, "comes from a library");
    refused("misnamed", CLAAS_ERR_INVALID, "it calls itself 'somebody'");
    refused("absent", CLAAS_ERR_NOT_FOUND, "there is no plugin 'absent'");
}
END_TEST

START_TEST(names_are_no_paths)
{
    static const char *const rows[] = { "", "../good", "good.so", "/tmp/good", "Good", "0good", "go od", "gut\xC3\xA9",
                                        "a23456789012345678901234567890123456789012345678901234567890123456789" };
    refused(rows[_i], CLAAS_ERR_INVALID, "cannot be the name of a plugin");
}
END_TEST

START_TEST(not_a_shared_object)
{
    char path[4200];
    (void)snprintf(path, sizeof path, "%s/text.so", dir);
    ck_ok(file_write_durable(path, "hello", 5, 0644, &err), err);
    look_into(dir);
    refused("text", CLAAS_ERR_UNSUPPORTED, "cannot load plugin 'text'");
    (void)snprintf(path, sizeof path, "%s/folder.so", dir);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    refused("folder", CLAAS_ERR_FORBIDDEN, "is not a regular file");
}
END_TEST

START_TEST(modes_are_checked)
{
    look_into(dir);
    char *path = put_good("good.so", 0664);
    refused("good", CLAAS_ERR_FORBIDDEN, "can be written by its group (mode 0664)");
    ck_assert_int_eq(chmod(path, 0646), 0);
    refused("good", CLAAS_ERR_FORBIDDEN, "can be written by everybody (mode 0646)");
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert_int_eq(chmod(dir, 0770), 0);
    refused("good", CLAAS_ERR_FORBIDDEN, "can be written by its group (mode 0770)");
    ck_assert_int_eq(chmod(dir, 01777), 0);
    refused("good", CLAAS_ERR_FORBIDDEN, "can be written by everybody");
    ck_assert_int_eq(chmod(dir, 0700), 0);
    ck_ok(load("good"), err);
}
END_TEST

START_TEST(owners_are_checked)
{
    if (geteuid() != 0) {
        return; /* only root can give a file away */
    }
    look_into(dir);
    char *path = put_good("good.so", 0644);
    ck_assert_int_eq(chown(path, 12345, 0), 0);
    refused("good", CLAAS_ERR_FORBIDDEN, "belongs to user 12345");
    ck_assert_int_eq(chown(path, 0, 0), 0);
    ck_assert_int_eq(chown(dir, 12345, 0), 0);
    refused("good", CLAAS_ERR_FORBIDDEN, "belongs to user 12345");
    ck_assert_int_eq(chown(dir, 0, 0), 0);
    ck_ok(load("good"), err);
}
END_TEST

START_TEST(links_lead_to_checked_places)
{
    char inner[4200];
    char link[8192];
    char target[8192];
    (void)snprintf(inner, sizeof inner, "%s/open", dir);
    ck_assert_int_eq(mkdir(inner, 0755), 0);
    (void)put_good("open/good.so", 0644);
    (void)snprintf(link, sizeof link, "%s/good.so", dir);
    (void)snprintf(target, sizeof target, "%s/good.so", inner);
    ck_assert_int_eq(symlink(target, link), 0);
    look_into(dir);
    ck_assert_int_eq(chmod(inner, 0777), 0);
    refused("good", CLAAS_ERR_FORBIDDEN, "/open/");
    ck_assert_int_eq(chmod(inner, 0755), 0);
    ck_ok(load("good"), err);
}
END_TEST

START_TEST(search_path_has_parts)
{
    char both[8400];
    (void)snprintf(both, sizeof both, "::%s/nothing:%s:%s:", dir, dir, built);
    look_into(both);
    ck_ok(load("good"), err);
}
END_TEST

START_TEST(configured_path_counts_without_the_variable)
{
    host_free(host);
    ck_assert_int_eq(unsetenv("CLAAS_PLUGIN_PATH"), 0);
    ck_ok(host_new(&host, built, &err), err);
    ck_ok(load("good"), err);
    host_free(host);
    ck_ok(host_new(&host, NULL, &err), err);
    refused("no-such-plugin", CLAAS_ERR_NOT_FOUND, CLAAS_PLUGINDIR);
}
END_TEST

static void list_each(void *ctx, const char *name)
{
    buf_addf(ctx, "%s ", name);
}

START_TEST(list_is_sorted_and_unique)
{
    struct buf out = BUF_INIT;
    char both[8400];
    (void)put_good("zeta.so", 0644);
    (void)put_good("good.so", 0644);
    (void)put_good("No_name.so", 0644);
    (void)snprintf(both, sizeof both, "%s:%s", dir, built);
    look_into(both);
    ck_ok(host_module_list(host, list_each, &out, &err), err);
    ck_assert_str_eq(buf_str(&out), "borrowed good libdoor misnamed noentry null small wrongabi zeta ");
    buf_clear(&out);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("host_load");
    TCase *t = tcase_create("files");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, good_one_is_loaded_once);
    tcase_add_test(t, good_one_is_opened_and_called);
    tcase_add_test(t, wrong_files_are_refused);
    tcase_add_loop_test(t, names_are_no_paths, 0, 9);
    tcase_add_test(t, not_a_shared_object);
    tcase_add_test(t, modes_are_checked);
    tcase_add_test(t, owners_are_checked);
    tcase_add_test(t, links_lead_to_checked_places);
    tcase_add_test(t, search_path_has_parts);
    tcase_add_test(t, configured_path_counts_without_the_variable);
    tcase_add_test(t, list_is_sorted_and_unique);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
