/* SPDX-License-Identifier: MIT */
/* Steps come one at a time, and one that waits for another can be called off. */
#include "config.h"

#include "plugins/local/instance.h"
#include "testing.h"

#include <pthread.h>
#include <stdatomic.h>

static struct instance self = { .training = PTHREAD_MUTEX_INITIALIZER };
static atomic_int called_off;

static uint32_t left(const struct claas_call *call)
{
    (void)call;
    return atomic_load(&called_off) ? 0 : UINT32_MAX;
}

static const struct claas_call call = { .size = sizeof call, .left_ms = left };

static void *step(void *ctx)
{
    struct claas_error err = ERR_INIT;
    int rc = instance_step_begin(&self, &call, &err);
    if (rc == 0) {
        instance_step_end(&self);
    }
    *(int *)ctx = rc;
    return NULL;
}

START_TEST(a_step_that_waits_can_be_called_off)
{
    struct claas_error err = ERR_INIT;
    pthread_t second;
    int rc = 0;
    ck_ok(instance_step_begin(&self, &call, &err), err);
    ck_assert_int_eq(pthread_create(&second, NULL, step, &rc), 0);
    atomic_store(&called_off, 1);
    (void)pthread_join(second, NULL);
    ck_assert_int_eq(rc, CLAAS_ERR_CANCELLED);
    instance_step_end(&self);
}
END_TEST

START_TEST(the_next_one_begins_when_the_first_ends)
{
    struct claas_error err = ERR_INIT;
    pthread_t second;
    int rc = -1;
    ck_ok(instance_step_begin(&self, NULL, &err), err);
    ck_assert_int_eq(pthread_create(&second, NULL, step, &rc), 0);
    instance_step_end(&self);
    (void)pthread_join(second, NULL);
    ck_assert_int_eq(rc, 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_steps");
    TCase *t = tcase_create("steps");
    tcase_set_timeout(t, 20);
    tcase_add_test(t, a_step_that_waits_can_be_called_off);
    tcase_add_test(t, the_next_one_begins_when_the_first_ends);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
