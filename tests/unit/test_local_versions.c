/* SPDX-License-Identifier: MIT */
/* First loads of versions beside one another: a host that is slow with the files of one version holds up nobody who
 * wants another, and whoever wants the same one waits no longer than his call has time. */
#include "config.h"

#include "plugins/local/instance.h"
#include "plugins/local/peft.h"
#include "testing.h"

#include "base/err.h"

#include <pthread.h>
#include <string.h>

static struct instance self;
static struct claas_error err;

/* The host's half: the version with a gate keeps its readers until it is opened. No file is ever handed out. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int at_gate;
static int gate_is_open;

static int no_path(const struct claas_version *version, const char *name, const char **out, struct claas_error *e)
{
    (void)name;
    (void)out;
    return err_set(e, CLAAS_ERR_UNAVAILABLE, NULL, "no files of '%s'", version->label);
}

static int slow_path(const struct claas_version *version, const char *name, const char **out, struct claas_error *e)
{
    (void)pthread_mutex_lock(&lock);
    at_gate++;
    (void)pthread_cond_broadcast(&changed);
    while (!gate_is_open) {
        (void)pthread_cond_wait(&changed, &lock);
    }
    (void)pthread_mutex_unlock(&lock);
    return no_path(version, name, out, e);
}

static const struct claas_file weights = { .size = sizeof weights, .name = PEFT_WEIGHTS };
static const struct claas_file config = { .size = sizeof config, .name = PEFT_CONFIG };
static const struct claas_file *const files[] = { &weights, &config };

static const struct claas_version slow = { .size = sizeof slow, .n_files = 2, .label = "slow", .format = PEFT_FORMAT,
                                           .files = files, .state = { { 1 } }, .serve = { { 1 } }, .path = slow_path };
static const struct claas_version other = { .size = sizeof other, .n_files = 2, .label = "other", .format = PEFT_FORMAT,
                                            .files = files, .state = { { 2 } }, .serve = { { 2 } }, .path = no_path };

static void *load_slow(void *ctx)
{
    const struct warm_adapter *adapter = NULL;
    struct claas_error e = ERR_INIT;
    *(int *)ctx = instance_adapter(&self, &slow, 0, NULL, &adapter, &e);
    return NULL;
}

static pthread_t first;
static int first_rc;

static void setup(void)
{
    err = ERR_INIT;
    ck_ok(warm_new(&self.warm, &err), err);
    instance_reading_init(&self);
    ck_assert_int_eq(pthread_create(&first, NULL, load_slow, &first_rc), 0);
    (void)pthread_mutex_lock(&lock);
    while (at_gate == 0) {
        (void)pthread_cond_wait(&changed, &lock);
    }
    (void)pthread_mutex_unlock(&lock);
}

static void open_gate(void)
{
    (void)pthread_mutex_lock(&lock);
    gate_is_open = 1;
    (void)pthread_cond_broadcast(&changed);
    (void)pthread_mutex_unlock(&lock);
}

static void teardown(void)
{
    open_gate();
    (void)pthread_join(first, NULL);
    ck_assert_int_eq(first_rc, CLAAS_ERR_UNAVAILABLE);
    instance_reading_clear(&self);
    warm_free(self.warm);
}

START_TEST(another_version_does_not_wait)
{
    const struct warm_adapter *adapter = NULL;
    ck_failed(instance_adapter(&self, &other, 0, NULL, &adapter, &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_ptr_nonnull(strstr(err.message, "other"));
    ck_assert_ptr_null(adapter);
}
END_TEST

static uint32_t none_left(const struct claas_call *call)
{
    (void)call;
    return 0;
}

START_TEST(waiting_ends_with_the_call)
{
    static const struct claas_call late = { .size = sizeof late, .left_ms = none_left };
    const struct warm_adapter *adapter = NULL;
    ck_failed(instance_adapter(&self, &slow, 0, &late, &adapter, &err), CLAAS_ERR_CANCELLED, err);
    ck_assert_ptr_nonnull(strstr(err.message, "slow"));
    ck_assert_int_eq(at_gate, 1);
}
END_TEST

/* When the first reader has failed, the next one tries for himself. */
START_TEST(the_next_one_tries_again)
{
    pthread_t second;
    int second_rc = 0;
    ck_assert_int_eq(pthread_create(&second, NULL, load_slow, &second_rc), 0);
    open_gate();
    (void)pthread_join(second, NULL);
    ck_assert_int_eq(second_rc, CLAAS_ERR_UNAVAILABLE);
    ck_assert_int_eq(at_gate, 2);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_versions");
    TCase *t = tcase_create("first loads");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, another_version_does_not_wait);
    tcase_add_test(t, waiting_ends_with_the_call);
    tcase_add_test(t, the_next_one_tries_again);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
