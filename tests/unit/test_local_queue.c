/* SPDX-License-Identifier: MIT */
/* The queue of requests: order, bounds, giving up, pauses, the end. Jobs wait at a gate, so that each test decides when
 * one ends. */
#include "config.h"

#include "plugins/local/queue.h"
#include "testing.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { WORKS = 8, SECOND = 5, HELPER = 6 }; /* the helper threads have the calls of these two */

struct work {
    struct queue_job job; /* first: what the queue hands back */
    struct claas_call call;
    atomic_uint left_ms;
    char name;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* all below but the works */
static pthread_cond_t change = PTHREAD_COND_INITIALIZER;
static int gate_open;
static int started;
static int finished;
static int given_up;
static int done;  /* of a helper thread */
static int asked[WORKS]; /* how often a call was looked at; a helper's: its pause has begun */
static char order[64]; /* names as they began; those given up in lower case */

static struct work works[WORKS];
static struct queue *queue;

static void note(int *counter)
{
    (*counter)++;
    pthread_cond_broadcast(&change);
}

static void work_run(struct queue_job *job)
{
    const struct work *w = (const struct work *)job;
    pthread_mutex_lock(&lock);
    order[started + given_up] = w->name;
    note(&started);
    while (!gate_open) {
        pthread_cond_wait(&change, &lock);
    }
    note(&finished);
    pthread_mutex_unlock(&lock);
}

static void work_give_up(struct queue_job *job)
{
    const struct work *w = (const struct work *)job;
    pthread_mutex_lock(&lock);
    order[started + given_up] = (char)(w->name + 'a' - 'A');
    note(&given_up);
    pthread_mutex_unlock(&lock);
}

static uint32_t work_left(const struct claas_call *call)
{
    const struct work *w = (const struct work *)((const char *)call - offsetof(struct work, call));
    pthread_mutex_lock(&lock);
    note(&asked[w - works]);
    pthread_mutex_unlock(&lock);
    return atomic_load(&w->left_ms);
}

static struct queue_job *work(int i)
{
    works[i].job = (struct queue_job){ .call = &works[i].call, .run = work_run, .give_up = work_give_up };
    works[i].call = (struct claas_call){ .size = sizeof(struct claas_call), .left_ms = work_left };
    atomic_store(&works[i].left_ms, UINT32_MAX);
    works[i].name = (char)('A' + i);
    return &works[i].job;
}

static void add(int i)
{
    struct claas_error err = ERR_INIT;
    ck_ok(queue_add(queue, work(i), &err), err);
}

static void open_gate(void)
{
    pthread_mutex_lock(&lock);
    gate_open = 1;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&lock);
}

/* Until the counter is at least `wanted`; 1 when it did not come to that in time. */
static int wait_for(const int *counter, int wanted, long ms)
{
    struct timespec until;
    int late = 0;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock);
    while (*counter < wanted && !late) {
        late = pthread_cond_timedwait(&change, &lock, &until) != 0;
    }
    late = *counter < wanted;
    pthread_mutex_unlock(&lock);
    return late;
}

#define expect(counter, wanted) ck_assert_msg(!wait_for(&(counter), wanted, 10000), #counter " is not " #wanted)
#define expect_still(counter, wanted) \
    do { \
        expect(counter, wanted); \
        ck_assert_msg(wait_for(&(counter), (wanted) + 1, 50), #counter " went beyond " #wanted); \
    } while (0)

static void start(size_t threads, size_t most)
{
    struct claas_error err = ERR_INIT;
    ck_ok(queue_new(threads, most, &queue, &err), err);
}

/* With job A in progress. */
static void start_busy(size_t threads, size_t most)
{
    start(threads, most);
    add(0);
    expect(started, 1);
}

static void pause_now(void)
{
    struct claas_error err = ERR_INIT;
    ck_ok(queue_pause(queue, NULL, &err), err);
}

static void end(void)
{
    open_gate();
    queue_free(queue);
}

/* ---- order and bounds ---- */

START_TEST(first_come_first_served)
{
    start(1, 8);
    for (int i = 0; i < 5; i++) {
        add(i);
    }
    expect(started, 1);
    ck_assert_uint_eq(queue_running(queue), 1);
    ck_assert_uint_eq(queue_waiting(queue), 4);
    end();
    ck_assert_str_eq(order, "ABCDE");
    ck_assert_int_eq(finished, 5);
}
END_TEST

static void add_of(int i, uint64_t scope)
{
    struct claas_error err = ERR_INIT;
    struct queue_job *job = work(i);
    job->scope = scope;
    ck_ok(queue_add(queue, job, &err), err);
}

/* A is in progress, B and C and D are of the same scope; who comes later and is alone does not wait for them all. */
START_TEST(scopes_take_turns)
{
    static const uint64_t scopes[] = { 7, 7, 7, 7, 8, 9, 8, 7 };
    start(1, 8);
    for (int i = 0; i < WORKS; i++) {
        add_of(i, scopes[i]);
        expect(started, 1);
    }
    ck_assert_uint_eq(queue_waiting(queue), 7);
    end();
    ck_assert_str_eq(order, "ABEFCGDH");
    ck_assert_int_eq(finished, 8);
}
END_TEST

/* B, the first of its line, is out of time, and so is E, which is alone: the line goes on, and keeps its turn. */
START_TEST(lines_keep_their_turns)
{
    static const uint64_t scopes[] = { 0, 7, 7, 8, 9, 7 };
    start(1, 8);
    for (int i = 0; i < 6; i++) {
        add_of(i, scopes[i]);
        expect(started, 1);
    }
    atomic_store(&works[1].left_ms, 0);
    atomic_store(&works[4].left_ms, 0);
    queue_tend(queue);
    ck_assert_uint_eq(queue_waiting(queue), 3);
    add_of(6, 9);
    end();
    ck_assert_int_eq(given_up, 2);
    ck_assert_str_eq(order + 3, "CDGF");
}
END_TEST

START_TEST(as_many_at_once_as_threads)
{
    start(3, 8);
    for (int i = 0; i < 5; i++) {
        add(i);
    }
    expect_still(started, 3);
    ck_assert_uint_eq(queue_running(queue), 3);
    ck_assert_uint_eq(queue_waiting(queue), 2);
    open_gate();
    expect(finished, 5);
    end();
}
END_TEST

/* Nobody may wait: what a thread is free for is answered all the same, also when it comes faster than threads wake. */
START_TEST(nobody_waits)
{
    struct claas_error err = ERR_INIT;
    start(2, 0);
    add(0);
    add(1);
    expect(started, 2);
    ck_failed(queue_add(queue, work(2), &err), CLAAS_ERR_EXHAUSTED, err);
    open_gate();
    expect(finished, 2);
    end();
}
END_TEST

START_TEST(too_many_waiting)
{
    struct claas_error err = ERR_INIT;
    start_busy(1, 2);
    add(1);
    add(2);
    int rc = queue_add(queue, work(3), &err);
    ck_failed(rc, CLAAS_ERR_EXHAUSTED, err);
    ck_assert_uint_eq(queue_waiting(queue), 2);
    open_gate();
    expect(finished, 3);
    add(4);
    end();
    ck_assert_str_eq(order, "ABCE");
}
END_TEST

/* ---- giving up ---- */

START_TEST(late_jobs_do_not_begin)
{
    start_busy(1, 8);
    add(1);
    add(2);
    atomic_store(&works[1].left_ms, 0);
    end();
    ck_assert_str_eq(order, "AbC");
    ck_assert_int_eq(finished, 2);
    ck_assert_int_eq(given_up, 1);
}
END_TEST

/* Each pattern says which of B to E are late; F comes afterwards, so that the end of the list must be right. */
START_TEST(tending_gives_up_the_late_ones)
{
    int n_late = 0;
    start_busy(1, 8);
    for (int i = 1; i < 5; i++) {
        add(i);
        if (_i >> (i - 1) & 1) {
            atomic_store(&works[i].left_ms, 0);
            n_late++;
        }
    }
    queue_tend(queue);
    ck_assert_int_eq(given_up, n_late);
    ck_assert_uint_eq(queue_waiting(queue), 4 - (size_t)n_late);
    add(5);
    end();
    size_t at = 0;
    for (int i = 0; i < 6; i++) {
        if (i == 0 || i == 5 || !(_i >> (i - 1) & 1)) {
            at += strspn(order + at, "bcde"); /* those given up, in any order */
            ck_assert_int_eq(order[at++], 'A' + i);
        }
    }
}
END_TEST

START_TEST(late_jobs_are_given_up_in_a_pause)
{
    start(2, 8);
    pause_now();
    add(0);
    add(1);
    add(2);
    atomic_store(&works[1].left_ms, 0);
    expect(given_up, 1); /* nobody tends: the queue's own threads do */
    ck_assert_uint_eq(queue_waiting(queue), 2);
    ck_assert_int_eq(started, 0);
    queue_resume(queue);
    open_gate();
    expect(finished, 2);
    end();
}
END_TEST

/* ---- pauses ---- */

static void *pauser(void *ctx)
{
    struct claas_error err = ERR_INIT;
    const struct work *w = ctx;
    int rc = queue_pause(queue, &w->call, &err);
    pthread_mutex_lock(&lock);
    note(&done);
    pthread_mutex_unlock(&lock);
    return rc ? queue : NULL; /* anything: it failed */
}

/* Returns once the pause with the call of work i has begun; somebody must be in progress. */
static pthread_t pauser_start(int i)
{
    pthread_t thread;
    (void)work(i);
    ck_assert_int_eq(pthread_create(&thread, NULL, pauser, &works[i]), 0);
    expect(asked[i], 1);
    ck_assert_int_eq(done, 0);
    return thread;
}

static void pauser_end(pthread_t thread)
{
    void *failed = NULL;
    ck_assert_int_eq(pthread_join(thread, &failed), 0);
    ck_assert_ptr_null(failed);
}

START_TEST(a_pause_waits_for_those_in_progress)
{
    start_busy(2, 8);
    pthread_t thread = pauser_start(HELPER);
    add(1);
    ck_assert_int_eq(started, 1); /* though a thread is free: nothing begins any more */
    open_gate();
    pauser_end(thread);
    ck_assert_uint_eq(queue_running(queue), 0);
    expect_still(started, 1);
    ck_assert_uint_eq(queue_waiting(queue), 1);
    queue_resume(queue);
    expect(finished, 2);
    end();
}
END_TEST

START_TEST(pausing_again_is_fine)
{
    start(2, 8);
    queue_resume(queue);
    pause_now();
    pause_now();
    add(0);
    expect_still(started, 0);
    queue_resume(queue);
    expect(started, 1);
    queue_resume(queue);
    end();
    ck_assert_int_eq(finished, 1);
}
END_TEST

START_TEST(a_cancelled_pause_is_none)
{
    struct claas_error err = ERR_INIT;
    (void)work(7);
    atomic_store(&works[7].left_ms, 0);
    start_busy(2, 8);
    int rc = queue_pause(queue, &works[7].call, &err);
    ck_failed(rc, CLAAS_ERR_CANCELLED, err);
    add(1);
    expect(started, 2);
    end();
}
END_TEST

/* The pause of one who gives up leaves that of another. */
START_TEST(a_cancelled_pause_leaves_others)
{
    struct claas_error err = ERR_INIT;
    (void)work(7);
    atomic_store(&works[7].left_ms, 0);
    start_busy(2, 8);
    pthread_t thread = pauser_start(HELPER);
    ck_failed(queue_pause(queue, &works[7].call, &err), CLAAS_ERR_CANCELLED, err);
    add(1);
    expect_still(started, 1);
    open_gate();
    pauser_end(thread);
    expect_still(started, 1);
    queue_resume(queue);
    expect(finished, 2);
    end();
}
END_TEST

/* The second pause is another one's: who gives up the first takes nothing back from it. */
START_TEST(a_pause_called_off_after_a_resume)
{
    void *failed = NULL;
    start_busy(2, 8);
    pthread_t first = pauser_start(HELPER);
    queue_resume(queue);
    pthread_t second = pauser_start(SECOND);
    add(1);
    atomic_store(&works[HELPER].left_ms, 0);
    ck_assert_int_eq(pthread_join(first, &failed), 0);
    ck_assert_ptr_nonnull(failed);
    expect_still(started, 1);
    open_gate();
    pauser_end(second);
    expect_still(started, 1);
    queue_resume(queue);
    expect(finished, 2);
    end();
}
END_TEST

/* Work of other threads is waited for, and waits itself. */
START_TEST(a_pause_waits_for_guests)
{
    struct claas_error err = ERR_INIT;
    (void)work(7);
    start(2, 8);
    ck_ok(queue_enter(queue, NULL, &err), err);
    ck_ok(queue_enter(queue, &works[7].call, &err), err);
    pthread_t thread = pauser_start(HELPER);
    add(0);
    queue_leave(queue);
    ck_assert(wait_for(&done, 1, 50));
    queue_leave(queue);
    pauser_end(thread);
    expect_still(started, 0);
    atomic_store(&works[7].left_ms, 0);
    ck_failed(queue_enter(queue, &works[7].call, &err), CLAAS_ERR_CANCELLED, err);
    queue_resume(queue);
    ck_ok(queue_enter(queue, &works[7].call, &err), err);
    queue_leave(queue);
    open_gate();
    expect(finished, 1);
    end();
}
END_TEST

/* ---- the end ---- */

static void *freer(void *ctx)
{
    (void)ctx;
    queue_free(queue);
    pthread_mutex_lock(&lock);
    note(&done);
    pthread_mutex_unlock(&lock);
    return NULL;
}

START_TEST(the_end_waits_for_all_jobs)
{
    pthread_t thread;
    start(2, 8);
    for (int i = 0; i < 4; i++) {
        add(i);
    }
    expect(started, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, freer, NULL), 0);
    ck_assert(wait_for(&done, 1, 50));
    open_gate();
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(finished, 4);
    queue_free(NULL);
}
END_TEST

START_TEST(the_end_ends_a_pause)
{
    start(1, 8);
    pause_now();
    add(0);
    add(1);
    atomic_store(&works[1].left_ms, 0);
    end();
    ck_assert_int_eq(finished, 1);
    ck_assert_int_eq(given_up, 1);
}
END_TEST

/* ---- threads ---- */

static void signal_run(struct queue_job *job)
{
    sigset_t blocked;
    (void)job;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    pthread_mutex_lock(&lock);
    started = sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGINT);
    note(&finished);
    pthread_mutex_unlock(&lock);
}

START_TEST(signals_go_elsewhere)
{
    struct claas_error err = ERR_INIT;
    sigset_t blocked;
    start(1, 8);
    work(0)->run = signal_run;
    ck_ok(queue_add(queue, &works[0].job, &err), err);
    expect(finished, 1);
    ck_assert_int_eq(started, 1);
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    ck_assert_int_eq(sigismember(&blocked, SIGTERM), 0);
    end();
}
END_TEST

enum { CROWD = 4, EACH = 500 }; /* jobs without a call: never late */

static atomic_int crowd_run;

static void crowd_job(struct queue_job *job)
{
    atomic_fetch_add(&crowd_run, 1);
    free(job);
}

static void *crowd_thread(void *accepted)
{
    for (int i = 0; i < EACH; i++) {
        struct queue_job *job = calloc(1, sizeof *job);
        job->run = crowd_job;
        if (queue_add(queue, job, NULL) == 0) {
            ++*(int *)accepted;
        } else {
            free(job);
        }
        if (i % 50 == 0 && queue_pause(queue, NULL, NULL) == 0) {
            queue_tend(queue);
            queue_resume(queue);
        }
    }
    return NULL;
}

START_TEST(a_crowd)
{
    pthread_t threads[CROWD];
    int accepted[CROWD] = { 0 };
    int sum = 0;
    start(3, 64);
    for (int i = 0; i < CROWD; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, crowd_thread, &accepted[i]), 0);
    }
    for (int i = 0; i < CROWD; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        sum += accepted[i];
    }
    end();
    ck_assert_int_gt(sum, 0);
    ck_assert_int_eq(atomic_load(&crowd_run), sum);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_queue");
    TCase *t = tcase_create("queue");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, first_come_first_served);
    tcase_add_test(t, scopes_take_turns);
    tcase_add_test(t, lines_keep_their_turns);
    tcase_add_test(t, as_many_at_once_as_threads);
    tcase_add_test(t, nobody_waits);
    tcase_add_test(t, too_many_waiting);
    tcase_add_test(t, late_jobs_do_not_begin);
    tcase_add_loop_test(t, tending_gives_up_the_late_ones, 0, 16);
    tcase_add_test(t, late_jobs_are_given_up_in_a_pause);
    tcase_add_test(t, a_pause_waits_for_those_in_progress);
    tcase_add_test(t, pausing_again_is_fine);
    tcase_add_test(t, a_cancelled_pause_is_none);
    tcase_add_test(t, a_cancelled_pause_leaves_others);
    tcase_add_test(t, a_pause_called_off_after_a_resume);
    tcase_add_test(t, a_pause_waits_for_guests);
    tcase_add_test(t, the_end_waits_for_all_jobs);
    tcase_add_test(t, the_end_ends_a_pause);
    tcase_add_test(t, signals_go_elsewhere);
    tcase_add_test(t, a_crowd);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
