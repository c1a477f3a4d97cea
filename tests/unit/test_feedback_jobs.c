/* SPDX-License-Identifier: MIT */
/* Jobs over the toy's house: what a process left is gone on with, and nothing is applied twice. */
#include "config.h"

#include "feedback_testing.h"

#include "feedback/jobs.h"

#include <claas/plugin.h>
#include <stdatomic.h>
#include <unistd.h>

static struct jobs *jobs;

static void jobs_begin(uint32_t workers)
{
    const struct jobs_options o = { .feedback = f, .adapters = a, .state = state, .serving = serving,
                                    .workers = workers, .lock_ms = 10000 };
    ck_ok(jobs_open(&o, &jobs, &err), err);
}

static void jobs_end(void)
{
    jobs_stop(jobs, 0);
    jobs_close(jobs);
    jobs = NULL;
}

static void submit(const char *adapter, const char *owner, char id[STATE_ID_CAP])
{
    char answer[STATE_ID_CAP];
    int repeated = 0;
    (void)chat_as(owner, adapter, answer);
    const struct feedback_item item = { .lora_id = adapter, .completion_id = answer, .feedback = "be Kuro" };
    const struct feedback_request r = { .items = &item, .n_items = 1, .owner = owner };
    const struct jobs_submit s = { .request = &r, .acknowledged = 1 };
    ck_ok(jobs_submit(jobs, &s, id, &repeated, &err), err);
    ck_assert_int_eq(repeated, 0);
}

static void ck_state(const char *id, const char *wanted, uint64_t version)
{
    struct jobs_view v;
    ck_ok(jobs_look(jobs, id, NULL, &v, &err), err);
    ck_assert_msg(strcmp(v.state, wanted) == 0, "%s: %s", v.state, v.job->error == NULL ? "" : v.job->error);
    ck_assert_uint_eq(v.job->version, version);
    jobs_view_clear(&v);
}

START_TEST(what_was_left_in_the_queue_is_done_after_a_restart)
{
    char id[3][STATE_ID_CAP];
    create("x");
    toy.train_gate = 1;
    jobs_begin(1);
    for (int i = 0; i < 3; i++) {
        submit("x", "", id[i]);
    }
    toy_wait_at(&toy.at_train_gate, 1);
    jobs_stop(jobs, 0); /* one ran, two waited: who waits for them is not told that they have ended */
    for (int i = 0; i < 3; i++) {
        ck_failed(jobs_wait(jobs, id[i], 0, NULL, NULL, &err), CLAAS_ERR_UNAVAILABLE, err);
    }
    jobs_close(jobs);
    ck_assert_uint_eq(head_of("x"), 1);
    toy_open_gate();
    jobs_begin(1);
    for (int i = 0; i < 3; i++) {
        ck_ok(jobs_wait(jobs, id[i], 0, NULL, NULL, &err), err);
        ck_state(id[i], "done", (uint64_t)i + 2);
    }
    ck_assert_uint_eq(head_of("x"), 4);
    jobs_end();
}
END_TEST

/* The process ended between the commit and the journal's end of it. */
START_TEST(what_was_committed_is_not_done_again)
{
    char id[STATE_ID_CAP];
    create("x");
    toy.train_gate = 1;
    jobs_begin(1);
    submit("x", "", id);
    toy_wait_at(&toy.at_train_gate, 1);
    jobs_end();
    ck_assert_int_eq(toy_commit(a, "x", 1, id, "learnt\n"), 0); /* its own entry: it names the job */
    toy_open_gate();
    int trains = toy.trains;
    jobs_begin(1);
    ck_ok(jobs_wait(jobs, id, 0, NULL, NULL, &err), err);
    ck_state(id, "done", 2);
    ck_assert_uint_eq(head_of("x"), 2);
    ck_assert_int_eq(toy.trains, trains);
    struct state_feedback *r = NULL;
    ck_ok(state_feedback_get(state, id, NULL, &r, &err), err);
    ck_assert_str_eq(r->status, "ok");
    ck_assert_uint_eq(r->version_to, 2);
    state_feedback_free(r);
    jobs_end();
}
END_TEST

START_TEST(a_step_that_fails_is_told_with_its_phase)
{
    char id[STATE_ID_CAP];
    create("x");
    toy.fail_trains = 1;
    jobs_begin(1);
    submit("x", "", id);
    ck_ok(jobs_wait(jobs, id, 0, NULL, NULL, &err), err);
    struct jobs_view v;
    ck_ok(jobs_look(jobs, id, NULL, &v, &err), err);
    ck_assert_str_eq(v.state, "failed");
    ck_assert_str_eq(v.phase, "distill");
    ck_assert_int_eq(strncmp(v.job->error, "distill: ", 9), 0);
    jobs_view_clear(&v);
    jobs_end();
}
END_TEST

/* What a user takes back is not learnt: jobs that wait are called off, one that runs has to end first. */
START_TEST(what_is_deleted_is_not_learnt)
{
    char id[2][STATE_ID_CAP];
    struct state_feedback *r[2];
    struct state_forgotten out;
    create("x");
    toy.train_gate = 1;
    jobs_begin(1);
    submit("x", "", id[0]);
    toy_wait_at(&toy.at_train_gate, 1);
    submit("x", "", id[1]);
    for (int i = 0; i < 2; i++) {
        ck_ok(state_feedback_get(state, id[i], NULL, &r[i], &err), err);
    }
    const struct state_forget running = { .id = r[0]->rollouts[0] };
    const struct state_forget waiting = { .id = r[1]->rollouts[0] };
    ck_failed(jobs_forget(jobs, &running, &out, &err), CLAAS_ERR_CONFLICT, err);
    err = ERR_INIT;
    ck_ok(jobs_forget(jobs, &waiting, &out, &err), err);
    ck_assert_uint_eq(out.n_cancelled, 1);
    ck_assert_str_eq(out.cancelled[0], id[1]);
    state_forgotten_clear(&out);
    ck_ok(jobs_wait(jobs, id[1], 0, NULL, NULL, &err), err);
    ck_state(id[1], "cancelled", 0);
    toy_open_gate();
    ck_ok(jobs_wait(jobs, id[0], 0, NULL, NULL, &err), err);
    ck_state(id[0], "done", 2);
    ck_ok(jobs_forget(jobs, &running, &out, &err), err); /* now it is told what was learnt from it */
    ck_assert_uint_eq(out.n_trained, 1);
    ck_assert_str_eq(out.trained[0].adapter, "x");
    ck_assert_uint_eq(out.trained[0].version, 2);
    ck_assert_str_eq(out.trained[0].feedback, id[0]);
    state_forgotten_clear(&out);
    ck_assert_uint_eq(head_of("x"), 2);
    state_feedback_free(r[0]);
    state_feedback_free(r[1]);
    jobs_end();
}
END_TEST

START_TEST(adapters_take_turns)
{
    char id[4][STATE_ID_CAP];
    create("x");
    create("y");
    toy.train_gate = 1;
    jobs_begin(1);
    submit("x", "", id[0]);
    toy_wait_at(&toy.at_train_gate, 1);
    submit("x", "", id[1]);
    submit("x", "", id[2]);
    submit("y", "", id[3]);
    toy_open_gate();
    for (int i = 0; i < 4; i++) {
        ck_ok(jobs_wait(jobs, id[i], 0, NULL, NULL, &err), err);
    }
    struct state_job *first = NULL;
    struct state_job *last = NULL;
    ck_ok(state_job_get(state, id[3], NULL, &first, &err), err);
    ck_ok(state_job_get(state, id[2], NULL, &last, &err), err);
    ck_assert_int_lt(first->ended_ns, last->ended_ns); /* y came last and was not last */
    state_job_free(first);
    state_job_free(last);
    jobs_end();
}
END_TEST

/* Who asks for much does not keep who asks for little waiting. */
START_TEST(owners_take_turns)
{
    static const char *const owners[] = { "many", "many", "many", "many", "many", "few", "few" };
    enum { N = sizeof owners / sizeof owners[0] };
    char id[N][STATE_ID_CAP];
    int64_t ended[N];
    create("x");
    create("y");
    toy.train_gate = 1;
    jobs_begin(1);
    for (int i = 0; i < N; i++) {
        submit(strcmp(owners[i], "many") == 0 ? "x" : "y", owners[i], id[i]);
        toy_wait_at(&toy.at_train_gate, 1);
    }
    toy_open_gate();
    for (int i = 0; i < N; i++) {
        struct state_job *j = NULL;
        ck_ok(jobs_wait(jobs, id[i], 0, NULL, NULL, &err), err);
        ck_ok(state_job_get(state, id[i], owners[i], &j, &err), err);
        ended[i] = j->ended_ns;
        state_job_free(j);
        ck_failed(state_job_get(state, id[i], "else", &j, &err), CLAAS_ERR_NOT_FOUND, err);
    }
    ck_assert_int_lt(ended[5], ended[2]); /* few came last: after one more of many it is his turn, and then every other one */
    ck_assert_int_lt(ended[2], ended[6]);
    ck_assert_int_lt(ended[6], ended[3]);
    jobs_end();
}
END_TEST

/* ---- a store whose replies are lost ---- */

static struct claas_storage lossy;
static const struct claas_storage *sound;
static atomic_int loses;   /* the next commit: 1: is made, 2: is not made; nobody can tell either way */
static atomic_int is_dark; /* nothing can be read of the log */

static int lost(struct claas_error *e)
{
    (void)snprintf(e->message, sizeof e->message, "the line went dead");
    e->code = CLAAS_ERR_UNAVAILABLE;
    e->flags = CLAAS_MAYBE;
    return e->code;
}

static int lossy_put(void *self, const char *key, const struct claas_put *put, const struct claas_call *call,
                     struct claas_error *e)
{
    int how = strncmp(key, "log/", 4) == 0 ? atomic_exchange(&loses, 0) : 0;
    if (how > 0) {
        atomic_store(&is_dark, 1);
    }
    int rc = how == 2 ? 0 : sound->put(self, key, put, call, e);
    return rc == 0 && how > 0 ? lost(e) : rc;
}

static int lossy_get(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd, struct claas_object *out,
                     const struct claas_call *call, struct claas_error *e)
{
    return strncmp(key, "log/", 4) == 0 && atomic_load(&is_dark) ? lost(e)
                                                                  : sound->get(self, key, from, bytes, fd, out, call, e);
}

static int lossy_head(void *self, const char *key, struct claas_object *out, const struct claas_call *call,
                      struct claas_error *e)
{
    return strncmp(key, "log/", 4) == 0 && atomic_load(&is_dark) ? lost(e) : sound->head(self, key, out, call, e);
}

static int lossy_list(void *self, const char *prefix, const char *after, uint32_t limit,
                      int (*each)(void *ctx, const char *key, const struct claas_object *object), void *ctx,
                      const struct claas_call *call, struct claas_error *e)
{
    return strncmp(prefix, "log/", 4) == 0 && atomic_load(&is_dark)
               ? lost(e)
               : sound->list(self, prefix, after, limit, each, ctx, call, e);
}

static void setup_lossy(void)
{
    err = ERR_INIT;
    toy_reset();
    sound = claas_plugin_entry(CLAAS_ABI)->storage;
    lossy = *sound;
    lossy.put = lossy_put;
    lossy.get = lossy_get;
    lossy.head = lossy_head;
    lossy.list = lossy_list;
    lossy.path = NULL; /* so that nothing is read past us */
    atomic_store(&loses, 0);
    atomic_store(&is_dark, 0);
    toy.storage = &lossy;
    toy_house_open(&house);
    a = house.adapters;
    open_rooms((struct feedback_options){ .lock_timeout_ms = 10000 });
}

/* Whether the commit was made or not: one repeat with the key more, one try to cancel it, and one version in the end. */
START_TEST(a_commit_of_unknown_fate_is_settled_later)
{
    char answer[STATE_ID_CAP];
    char id[STATE_ID_CAP];
    char again[STATE_ID_CAP];
    int repeated = 0;
    create("x");
    (void)chat("x", answer);
    const struct feedback_item item = { .lora_id = "x", .completion_id = answer, .feedback = "be Kuro" };
    const struct feedback_request r = { .items = &item, .n_items = 1 };
    const struct jobs_submit s = { .request = &r, .acknowledged = 1, .key = "k" };
    jobs_begin(1);
    atomic_store(&loses, _i + 1);
    ck_ok(jobs_submit(jobs, &s, id, &repeated, &err), err);
    while (!atomic_load(&is_dark)) {
        (void)usleep(1000);
    }
    struct jobs_view v = { .done = 0 };
    do { /* it is put back into the queue, to be looked after again */
        jobs_view_clear(&v);
        (void)usleep(1000);
        ck_ok(jobs_look(jobs, id, NULL, &v, &err), err);
        ck_assert_int_eq(v.job->ended_ns, 0);
    } while (strcmp(v.state, "queued") != 0);
    jobs_view_clear(&v);
    ck_failed(jobs_cancel(jobs, id, NULL, &err), CLAAS_ERR_CONFLICT, err);
    ck_ok(jobs_submit(jobs, &s, again, &repeated, &err), err);
    ck_assert_int_eq(repeated, 1);
    ck_assert_str_eq(again, id);
    atomic_store(&is_dark, 0);
    ck_ok(jobs_wait(jobs, id, 0, NULL, NULL, &err), err);
    ck_state(id, "done", 2);
    ck_assert_uint_eq(head_of("x"), 2);
    ck_assert_int_eq(toy.trains, _i + 1); /* only what was not committed is trained once more */
    jobs_end();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("feedback_jobs");
    TCase *t = tcase_create("jobs");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, what_was_left_in_the_queue_is_done_after_a_restart);
    tcase_add_test(t, what_was_committed_is_not_done_again);
    tcase_add_test(t, a_step_that_fails_is_told_with_its_phase);
    tcase_add_test(t, what_is_deleted_is_not_learnt);
    tcase_add_test(t, adapters_take_turns);
    tcase_add_test(t, owners_take_turns);
    suite_add_tcase(s, t);
    TCase *l = tcase_create("lossy");
    tcase_add_checked_fixture(l, setup_lossy, teardown);
    tcase_set_timeout(l, 60);
    tcase_add_loop_test(l, a_commit_of_unknown_fate_is_settled_later, 0, 2);
    suite_add_tcase(s, l);
    return s;
}

int main(void)
{
    return test_main(suite());
}
