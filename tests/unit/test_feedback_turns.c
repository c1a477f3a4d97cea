/* SPDX-License-Identifier: MIT */
/* Feedback while others work: conflicts, turns, requests called off at every point, versions that
 * do not load, and the device that inference gives up. */
#include "config.h"

#include "feedback_testing.h"

#include "base/clock.h"
#include "base/sha256.h"
#include "host/call.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* ---- somebody else commits ---- */

static int intruders; /* so many commits of somebody else come in the middle of steps */

static void intrude(void)
{
    if (intruders > 0) {
        char job[32];
        intruders--;
        (void)snprintf(job, sizeof job, "other-%d", intruders);
        ck_assert_int_eq(toy_commit(a, "x", head_of("x"), job, "one\ntwo\nthree\n"), 0);
    }
}

START_TEST(a_conflict_is_trained_again)
{
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    intruders = 1;
    toy.in_train = intrude;
    ck_ok(run_one("x", id, NULL), err);
    ck_assert_int_eq(toy.trains, 2);
    ck_assert_uint_eq(result.version_from, 2);
    ck_assert_uint_eq(result.version_to, 3);
    ck_assert_uint_eq(toy.last_age, 1);
    ck_assert(!sha256_equal(&toy.keys[0], &toy.keys[1])); /* another parent, another key */
    ck_assert(toy.seeds[0] != toy.seeds[1]);
    ck_assert_str_eq(chat("x", id), "v4"); /* on top of the three lines of the other one */
    struct adapter_entry *between = NULL;
    ck_ok(adapter_entry_get(a, "x", 2, NULL, &between, &err), err);
    ck_assert_str_eq(between->job, "other-0"); /* who was first stays in the log */
    adapter_entry_unref(between);
    feedback_result_clear(&result);
}
END_TEST

START_TEST(too_many_conflicts_are_told)
{
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    intruders = 100;
    toy.in_train = intrude;
    ck_failed(run_one("x", id, NULL), CLAAS_ERR_CONFLICT, err);
    ck_assert_int_eq(toy.trains, 5);
    ck_record_failed("x", "save");
    ck_assert_uint_eq(head_of("x"), 6);
    ck_assert_str_eq(chat("x", id), "v3"); /* the others' */
}
END_TEST

static void delete_it(void)
{
    struct claas_error why = ERR_INIT;
    ck_ok(adapter_delete(a, "x", "", NULL, &why), why);
}

START_TEST(an_adapter_deleted_meanwhile_stays_deleted)
{
    char id[STATE_ID_CAP];
    struct adapter_entry *head = NULL;
    create("x");
    (void)chat("x", id);
    toy.in_train = delete_it;
    ck_failed(run_one("x", id, NULL), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_int_eq(toy.trains, 1);
    ck_failed(adapter_head(a, "x", NULL, &head, &err), CLAAS_ERR_NOT_FOUND, err);
}
END_TEST

/* ---- requests in threads ---- */

struct runner {
    pthread_t thread;
    const char *lora_id;
    char id[STATE_ID_CAP];
    struct host_call call;
    int late_in; /* its time runs out in this phase */
    int rc;
    struct claas_error err;
    struct feedback_result result;
};

enum { NEVER = -1 };

static int at_lock; /* requests that have come to where they wait for their turn */
static int at_sleep; /* those that are about to pause inference */

static void on_runner_phase(void *ctx, enum feedback_phase phase)
{
    struct runner *r = ctx;
    if (r->late_in == (int)phase) {
        r->call.deadline_ns = clock_mono_ns() + 20000000;
    }
    (void)pthread_mutex_lock(&toy.mutex);
    at_lock += phase == FEEDBACK_LOCK;
    at_sleep += phase == FEEDBACK_SLEEP;
    (void)pthread_cond_broadcast(&toy.changed);
    (void)pthread_mutex_unlock(&toy.mutex);
}

static void *run_thread(void *ctx)
{
    struct runner *r = ctx;
    const struct feedback_item item = { .lora_id = r->lora_id,
                                        .completion_id = r->id,
                                        .feedback = "x" };
    const struct feedback_request request = {
        .items = &item, .n_items = 1, .call = &r->call.abi, .phase = on_runner_phase, .ctx = r
    };
    r->err = ERR_INIT;
    r->rc = feedback_run(f, &request, &r->result, &r->err);
    return NULL;
}

static void begin(struct runner *r, const char *lora_id, const char *id, int late_in)
{
    *r = (struct runner){ .lora_id = lora_id, .late_in = late_in };
    memcpy(r->id, id, sizeof r->id);
    host_call_init(&r->call, 0, NULL, NULL);
    ck_assert_int_eq(pthread_create(&r->thread, NULL, run_thread, r), 0);
}

static void end_ok(struct runner *r, uint64_t from, uint64_t to)
{
    ck_assert_int_eq(pthread_join(r->thread, NULL), 0);
    ck_ok(r->rc, r->err);
    ck_assert_uint_eq(r->result.version_from, from);
    ck_assert_uint_eq(r->result.version_to, to);
    feedback_result_clear(&r->result);
}

static void end_failed(struct runner *r, int code)
{
    ck_assert_int_eq(pthread_join(r->thread, NULL), 0);
    ck_failed(r->rc, code, r->err);
    err = r->err;
}

START_TEST(feedback_at_once_is_applied_in_order)
{
    struct runner r[3];
    char id[STATE_ID_CAP];
    char other[STATE_ID_CAP];
    create("x");
    create("y");
    (void)chat("x", id);
    (void)chat("y", other);
    toy.train_gate = 1;
    begin(&r[0], "x", id, NEVER);
    toy_wait_at(&toy.at_train_gate, 1);
    begin(&r[1], "x", id, NEVER);
    toy_wait_at(&at_lock, 2);
    begin(&r[2], "y", other, NEVER);
    toy_wait_at(&toy.at_train_gate, 2); /* y need not wait for x */
    (void)usleep(20000);
    ck_assert_int_eq(toy.trains, 2);       /* but the second one of x does */
    ck_assert_str_eq(chat("x", id), "v0"); /* and answers go on */
    toy_open_gate();
    end_ok(&r[0], 1, 2);
    end_ok(&r[1], 2, 3);
    end_ok(&r[2], 1, 2);
    ck_assert_int_eq(toy.trains, 3); /* nobody had to train twice */
    ck_assert_str_eq(chat("x", id), "v2");
}
END_TEST

START_TEST(a_turn_that_does_not_come_is_a_conflict)
{
    struct runner r;
    char id[STATE_ID_CAP];
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 30 });
    create("x");
    (void)chat("x", id);
    toy.train_gate = 1;
    begin(&r, "x", id, NEVER);
    toy_wait_at(&toy.at_train_gate, 1);
    ck_failed(run_one("x", id, NULL), CLAAS_ERR_CONFLICT, err);
    ck_assert_int_eq(toy.trains, 1);
    toy_open_gate();
    end_ok(&r, 1, 2);
    ck_assert_uint_eq(records(), 1); /* who did not get a turn leaves nothing */
}
END_TEST

/* ---- requests called off: by the caller (0), or because their time is over (1) ---- */

static const int off_code[] = { CLAAS_ERR_CANCELLED, CLAAS_ERR_TIMEOUT };

START_TEST(called_off_before_it_began)
{
    struct host_call call;
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    const struct feedback_item item = { .lora_id = "x", .completion_id = id, .feedback = "f" };
    const struct feedback_request r = { .items = &item, .n_items = 1, .call = &call.abi };
    host_call_init(&call, 0, NULL, NULL);
    if (_i == 0) {
        host_call_cancel(&call);
    } else {
        call.deadline_ns = 1;
    }
    ck_failed(feedback_run(f, &r, &result, &err), off_code[_i], err);
    ck_assert(!feedback_is_mixed(&err));
    ck_assert_int_eq(toy.trains, 0);
    ck_assert_uint_eq(records(), 0);
    const struct feedback_item batch[] = {
        item, { .lora_id = "x-latest", .completion_id = id, .feedback = "f" }
    };
    const struct feedback_request both = { .items = batch, .n_items = 2, .call = &call.abi };
    ck_failed(feedback_run(f, &both, &result, &err), off_code[_i], err);
}
END_TEST

START_TEST(called_off_while_it_waits)
{
    struct runner r[3];
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    toy.train_gate = 1;
    begin(&r[0], "x", id, NEVER);
    toy_wait_at(&toy.at_train_gate, 1);
    begin(&r[1], "x", id, _i == 1 ? FEEDBACK_LOCK : NEVER);
    toy_wait_at(&at_lock, 2);
    begin(&r[2], "x", id, NEVER);
    toy_wait_at(&at_lock, 3);
    if (_i == 0) {
        host_call_cancel(&r[1].call);
    }
    end_failed(&r[1], off_code[_i]);
    ck_assert_int_eq(toy.trains, 1);
    toy_open_gate();
    end_ok(&r[0], 1, 2);
    end_ok(&r[2], 2, 3); /* who waited behind it has its turn all the same */
    ck_assert_int_eq(toy.trains, 2);
    ck_assert_uint_eq(records(), 2);
}
END_TEST

START_TEST(called_off_in_the_step)
{
    struct runner r;
    char id[STATE_ID_CAP];
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 1000, .pause = house.instance });
    create("x");
    (void)chat("x", id);
    toy.train_gate = 1;
    begin(&r, "x", id, _i == 1 ? FEEDBACK_DISTILL : NEVER);
    toy_wait_at(&toy.at_train_gate, 1);
    if (_i == 0) {
        host_call_cancel(&r.call);
    }
    end_failed(&r, off_code[_i]);
    ck_record_failed("x", "distill");
    ck_assert_uint_eq(head_of("x"), 1);
    ck_assert_int_eq(toy.pauses, 1);
    ck_assert(!toy.paused);
    ck_assert_str_eq(chat("x", id), "v0");
    toy_open_gate();
    ck_ok(run_one("x", id, NULL), err); /* the turn was given back */
    ck_assert_uint_eq(result.version_to, 2);
    feedback_result_clear(&result);
}
END_TEST

static struct host_call off_call;
static enum feedback_phase off_phase;

static void call_off(void *ctx, enum feedback_phase phase)
{
    (void)ctx;
    if (phase == off_phase) {
        host_call_cancel(&off_call);
    }
}

static int run_called_off(const char *id, enum feedback_phase phase)
{
    const struct feedback_item item = { .lora_id = "x", .completion_id = id, .feedback = "f" };
    const struct feedback_request r = {
        .items = &item, .n_items = 1, .call = &off_call.abi, .phase = call_off
    };
    host_call_init(&off_call, 0, NULL, NULL);
    off_phase = phase;
    return feedback_run(f, &r, &result, &err);
}

START_TEST(called_off_before_the_commit_it_is_none)
{
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    ck_failed(run_called_off(id, FEEDBACK_SAVE), CLAAS_ERR_CANCELLED, err);
    ck_assert_int_eq(toy.trains, 1);
    ck_record_failed("x", "save");
    ck_assert_uint_eq(head_of("x"), 1);
    ck_assert_str_eq(chat("x", id), "v0");
}
END_TEST

/* A token that is used up after so many looks. */
static atomic_int looks_left; /* contents are put by several threads */

static uint32_t look(const struct claas_call *call)
{
    (void)call;
    return atomic_fetch_sub(&looks_left, 1) > 0 ? UINT32_MAX : 0;
}

static void no_progress(const struct claas_call *call, uint64_t done, uint64_t total,
                        const char *what)
{
    (void)call;
    (void)done;
    (void)total;
    (void)what;
}

START_TEST(called_off_anywhere_it_is_all_or_nothing)
{
    char id[STATE_ID_CAP];
    static const struct claas_call call = { .size = sizeof call,
                                            .left_ms = look,
                                            .progress = no_progress };
    create("x");
    (void)chat("x", id);
    const struct feedback_item items[] = {
        { .lora_id = "x", .completion_id = id, .feedback = "f" },
        { .lora_id = "x-latest", .completion_id = id, .feedback = "g" }
    };
    const struct feedback_request r = { .items = items, .n_items = 2, .call = &call };
    int rc = -1;
    for (int n = 0; rc != 0; n++) {
        atomic_store(&looks_left, n);
        rc = feedback_run(f, &r, &result, &err);
        ck_assert_msg(rc == 0 || rc == CLAAS_ERR_CANCELLED, "after %d looks: %s", n, err.message);
        ck_assert_uint_eq(head_of("x"), rc == 0 ? 2 : 1);
        ck_assert_int_lt(n, 1000);
    }
    feedback_result_clear(&result);
    ck_assert_str_eq(chat("x", id), "v1");
}
END_TEST

START_TEST(called_off_after_the_commit_it_stays)
{
    char id[STATE_ID_CAP];
    struct state_feedback *rec = NULL;
    create("x");
    (void)chat("x", id);
    ck_ok(run_called_off(id, FEEDBACK_WAKE), err);
    ck_assert_uint_eq(result.version_to, 2);
    ck_assert_uint_eq(head_of("x"), 2);
    ck_ok(state_feedback_get(state, result.request_id, "", &rec, &err), err);
    ck_assert_str_eq(rec->status, "ok");
    state_feedback_free(rec);
    feedback_result_clear(&result);
    ck_assert_str_eq(chat("x", id), "v1");
}
END_TEST

/* ---- serving around the step ---- */

START_TEST(a_version_that_cannot_be_loaded_stays_committed)
{
    char id[STATE_ID_CAP];
    struct serving_health health;
    create("x");
    (void)chat("x", id);
    (void)pthread_mutex_lock(&toy.mutex);
    toy.fail_loads = -1;
    (void)pthread_mutex_unlock(&toy.mutex);
    ck_ok(run_one("x", id, NULL), err);
    ck_assert_uint_eq(result.version_to, 2);
    ck_assert(!result.serves);
    ck_assert_int_eq(cJSON_GetArraySize(result.warnings), 1);
    feedback_result_clear(&result);
    ck_assert_str_eq(chat("x", id), "v0"); /* the old one */
    serving_health(serving, &health);
    ck_assert_int_eq(health.state, CLAAS_DEGRADED);
    (void)pthread_mutex_lock(&toy.mutex);
    toy.fail_loads = 0;
    (void)pthread_mutex_unlock(&toy.mutex);
    for (int i = 0; i < 1000 && health.n_behind > 0; i++) {
        (void)usleep(2000);
        serving_health(serving, &health);
    }
    ck_assert_str_eq(chat("x", id), "v1");
}
END_TEST

static int phases[16];
static int n_phases;

static void on_phase(void *ctx, enum feedback_phase phase)
{
    (void)ctx;
    phases[n_phases++ % 16] = (int)phase;
}

START_TEST(inference_gives_the_device_up_when_told_to)
{
    char id[STATE_ID_CAP];
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 1000, .pause = house.instance });
    create("x");
    (void)chat("x", id);
    const struct feedback_item item = { .lora_id = "x", .completion_id = id, .feedback = "f" };
    struct feedback_request r = { .items = &item, .n_items = 1, .phase = on_phase };
    ck_ok(feedback_run(f, &r, &result, &err), err);
    ck_assert(result.slept && result.woke);
    ck_assert_int_eq(toy.pauses, 1);
    ck_assert_int_eq(toy.resumes, 1);
    ck_assert_int_eq(n_phases, 7);
    for (int i = 0; i < n_phases; i++) {
        ck_assert_int_eq(phases[i], i); /* validate, lock, sleep, distill, save, wake, done */
    }
    feedback_result_clear(&result);
    toy.fail_trains = 1;
    ck_failed(feedback_run(f, &r, &result, &err), CLAAS_ERR_INTERNAL, err);
    ck_assert_int_eq(toy.resumes, 2); /* never left paused */
    r.no_pause = 1;
    ck_ok(feedback_run(f, &r, &result, &err), err);
    ck_assert_int_eq(toy.pauses, 2);
    ck_assert(!result.slept);
    feedback_result_clear(&result);
}
END_TEST

START_TEST(a_device_that_is_not_given_up_is_no_step)
{
    char id[STATE_ID_CAP];
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 1000, .pause = house.instance });
    create("x");
    (void)chat("x", id);
    toy.fail_pauses = 1;
    ck_failed(run_one("x", id, NULL), CLAAS_ERR_UNAVAILABLE, err);
    ck_record_failed("x", "sleep");
    ck_assert_int_eq(toy.trains, 0);
    ck_assert(!toy.paused);
    ck_assert_uint_eq(head_of("x"), 1);
}
END_TEST

static int trained_awake; /* steps that saw inference run */

static void look_whether_it_sleeps(void)
{
    (void)pthread_mutex_lock(&toy.mutex);
    trained_awake += !toy.paused;
    (void)pthread_mutex_unlock(&toy.mutex);
}

/* Two steps that pause inference at once, on two adapters; the second one's pause fails (1). */
START_TEST(nobody_wakes_inference_under_another_step)
{
    struct runner r[2];
    char id[2][STATE_ID_CAP];
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 10000, .pause = house.instance });
    create("x");
    create("y");
    (void)chat("x", id[0]);
    (void)chat("y", id[1]);
    toy.in_train = look_whether_it_sleeps;
    toy.train_gate = 1;
    begin(&r[0], "x", id[0], NEVER);
    toy_wait_at(&toy.at_train_gate, 1);
    (void)pthread_mutex_lock(&toy.mutex);
    toy.fail_pauses = _i;
    (void)pthread_mutex_unlock(&toy.mutex);
    begin(&r[1], "y", id[1], NEVER);
    toy_wait_at(&at_sleep, 2);
    (void)usleep(50000); /* time enough to do what it must not */
    (void)pthread_mutex_lock(&toy.mutex);
    ck_assert_int_eq(toy.pauses, 1);
    ck_assert_int_eq(toy.resumes, 0);
    ck_assert_int_eq(toy.at_train_gate, 1);
    (void)pthread_mutex_unlock(&toy.mutex);
    toy_open_gate();
    end_ok(&r[0], 1, 2);
    if (_i == 1) {
        end_failed(&r[1], CLAAS_ERR_UNAVAILABLE);
    } else {
        end_ok(&r[1], 1, 2);
    }
    ck_assert_int_eq(trained_awake, 0);
    ck_assert_int_eq(toy.resumes, 2);
    ck_assert(!toy.paused);
}
END_TEST

START_TEST(a_device_that_does_not_get_free_is_a_conflict)
{
    struct runner r;
    char id[2][STATE_ID_CAP];
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 30, .pause = house.instance });
    create("x");
    create("y");
    (void)chat("x", id[0]);
    (void)chat("y", id[1]);
    toy.train_gate = 1;
    begin(&r, "x", id[0], NEVER);
    toy_wait_at(&toy.at_train_gate, 1);
    ck_failed(run_one("y", id[1], NULL), CLAAS_ERR_CONFLICT, err);
    ck_record_failed("y", "sleep");
    ck_assert_int_eq(toy.pauses, 1);
    ck_assert_int_eq(toy.resumes, 0);
    toy_open_gate();
    end_ok(&r, 1, 2);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("feedback");
    TCase *t = tcase_create("turns");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_conflict_is_trained_again);
    tcase_add_test(t, too_many_conflicts_are_told);
    tcase_add_test(t, an_adapter_deleted_meanwhile_stays_deleted);
    tcase_add_test(t, feedback_at_once_is_applied_in_order);
    tcase_add_test(t, a_turn_that_does_not_come_is_a_conflict);
    tcase_add_loop_test(t, called_off_before_it_began, 0, 2);
    tcase_add_loop_test(t, called_off_while_it_waits, 0, 2);
    tcase_add_loop_test(t, called_off_in_the_step, 0, 2);
    tcase_add_test(t, called_off_before_the_commit_it_is_none);
    tcase_add_test(t, called_off_anywhere_it_is_all_or_nothing);
    tcase_add_test(t, called_off_after_the_commit_it_stays);
    tcase_add_test(t, a_version_that_cannot_be_loaded_stays_committed);
    tcase_add_test(t, inference_gives_the_device_up_when_told_to);
    tcase_add_test(t, a_device_that_is_not_given_up_is_no_step);
    tcase_add_loop_test(t, nobody_wakes_inference_under_another_step, 0, 2);
    tcase_add_test(t, a_device_that_does_not_get_free_is_a_conflict);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
