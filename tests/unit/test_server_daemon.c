/* SPDX-License-Identifier: MIT */
/* What the daemon hears from others and tells them: traces, sockets handed down, the service manager, and the
 * configuration while it changes. */
#include "config.h"

#include "testing.h"

#include "server/http.h"
#include "server/inherit.h"
#include "server/notify.h"
#include "server/snapshot.h"
#include "server/trace.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* ---- sockets that are handed down ---- */

/* Descriptors from 3 on are check's own, so this is for a child that check does not know. On failure it says where. */
#define WANT(true) \
    do { \
        if (!(true)) { \
            (void)fprintf(stderr, "# line %d: not so: %s\n", __LINE__, #true); \
            _exit(1); \
        } \
    } while (0)

static void in_child(void (*body)(int), int i)
{
    int status = 0;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        body(i);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

/* As descriptor 3 + i. */
static void hand_down(int i, int type, const char *host, int listens)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    int fd = socket(AF_INET, type, 0);
    WANT(inet_pton(AF_INET, host, &at.sin_addr) == 1 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    WANT(!listens || listen(fd, 1) == 0);
    WANT(dup2(fd, 3 + i) == 3 + i);
}

static void tell_sockets(const char *pid, const char *n, const char *names)
{
    char own[32];
    (void)snprintf(own, sizeof own, "%ld", (long)getpid());
    WANT(setenv("LISTEN_PID", pid ? pid : own, 1) == 0 && setenv("LISTEN_FDS", n, 1) == 0);
    WANT((names ? setenv("LISTEN_FDNAMES", names, 1) : unsetenv("LISTEN_FDNAMES")) == 0);
}

static void take_sockets(int i)
{
    struct claas_error err = ERR_INIT;
    struct inherited got[INHERIT_MAX];
    size_t n = 9;
    (void)i;
    WANT(inherit_sockets(got, &n, &err) == 0 && n == 0);
    hand_down(0, SOCK_STREAM, "127.0.0.1", 1);
    hand_down(1, SOCK_STREAM, "0.0.0.0", 1);
    tell_sockets("1", "2", NULL);
    WANT(inherit_sockets(got, &n, &err) == 0 && n == 0); /* meant for another process */
    WANT(!getenv("LISTEN_FDS"));
    tell_sockets(NULL, "2", "http:other");
    WANT(inherit_sockets(got, &n, &err) == 0 && n == 2);
    WANT(got[0].fd == 3 && got[1].fd == 4);
    WANT(strcmp(got[0].name, "http") == 0 && strcmp(got[1].name, "other") == 0);
    WANT(fcntl(4, F_GETFD) & FD_CLOEXEC && fcntl(4, F_GETFL) & O_NONBLOCK);
    WANT(!getenv("LISTEN_FDS") && !getenv("LISTEN_PID") && !getenv("LISTEN_FDNAMES"));
    WANT(inherit_check_local(&got[0], &err) == 0);
    WANT(inherit_check_local(&got[1], &err) == CLAAS_ERR_FORBIDDEN && strstr(err.message, "'0.0.0.0'"));
}

START_TEST(sockets_are_taken)
{
    in_child(take_sockets, 0);
}
END_TEST

static const struct {
    const char *count, *says;
} no_sockets[] = {
    { "1", "descriptor 3 of LISTEN_FDS: it is not a listening stream socket" }, /* datagrams */
    { "1", "descriptor 3 of LISTEN_FDS: it is not a listening stream socket" }, /* nobody listens */
    { "1", "cannot use descriptor 3 of LISTEN_FDS: " },                         /* a file */
    { "9", "cannot use LISTEN_FDS '9': expected 0 to 8 sockets" },
    { "-1", "cannot use LISTEN_FDS '-1'" },
    { "", "cannot use LISTEN_FDS ''" },
};

static void refuse_sockets(int i)
{
    struct claas_error err = ERR_INIT;
    struct inherited got[INHERIT_MAX];
    size_t n = 9;
    if (i < 2) {
        hand_down(0, i == 0 ? SOCK_DGRAM : SOCK_STREAM, "127.0.0.1", 0);
    } else {
        WANT(dup2(open("/dev/null", O_RDONLY), 3) == 3);
    }
    tell_sockets(NULL, no_sockets[i].count, NULL);
    WANT(inherit_sockets(got, &n, &err) != 0 && n == 0);
    WANT(strstr(err.message, no_sockets[i].says));
    WANT(!getenv("LISTEN_FDS"));
}

START_TEST(what_is_no_listening_socket_is_refused)
{
    in_child(refuse_sockets, _i);
}
END_TEST

/* ---- the service manager ---- */

static int manager = -1;

/* Listens on a path or, with '@' in front, in the abstract name space. */
static void manage(const char *name)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    size_t n = strlen(name);
    memcpy(at.sun_path, name, n);
    if (name[0] == '@') {
        at.sun_path[0] = '\0';
    } else {
        (void)unlink(name);
    }
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(bind(manager, (struct sockaddr *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)), 0);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
}

static const char *managed(void)
{
    static char text[1024];
    ssize_t n = recv(manager, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

START_TEST(the_manager_is_told)
{
    char name[64];
    char wanted[128];
    long long usec = 0;
    notify_send("nobody listens");
    (void)snprintf(name, sizeof name, "%s/tmp/claas-notify.%ld", _i ? "@" : "", (long)getpid());
    manage(name);
    notify_ready("fine");
    (void)snprintf(wanted, sizeof wanted, "READY=1\nMAINPID=%ld\nSTATUS=fine", (long)getpid());
    ck_assert_str_eq(managed(), wanted);
    notify_reloading();
    ck_assert_int_eq(sscanf(managed(), "RELOADING=1\nMONOTONIC_USEC=%lld", &usec), 1);
    ck_assert(usec > 0);
    if (!_i) {
        ck_assert_int_eq(unlink(name), 0);
    }
}
END_TEST

START_TEST(the_watchdog_is_for_us_only)
{
    char own[32];
    (void)snprintf(own, sizeof own, "%ld", (long)getpid());
    ck_assert_int_eq(notify_watchdog_ms(), 0);
    ck_assert_int_eq(setenv("WATCHDOG_USEC", "3000000", 1), 0);
    ck_assert_int_eq(notify_watchdog_ms(), 1500);
    ck_assert_int_eq(setenv("WATCHDOG_PID", own, 1), 0);
    ck_assert_int_eq(notify_watchdog_ms(), 1500);
    ck_assert_int_eq(setenv("WATCHDOG_PID", "1", 1), 0);
    ck_assert_int_eq(notify_watchdog_ms(), 0);
    ck_assert_int_eq(unsetenv("WATCHDOG_PID"), 0);
    ck_assert_int_eq(setenv("WATCHDOG_USEC", "3s", 1), 0);
    ck_assert_int_eq(notify_watchdog_ms(), 0);
}
END_TEST

/* A handler that must not wait, and does. */
static sem_t let_go;

static void hang(void *app, struct http_request *r)
{
    (void)app;
    (void)sem_wait(&let_go);
    http_answer(r, 200, cJSON_CreateObject());
}

START_TEST(who_hangs_is_not_alive)
{
    static const struct http_route routes[] = { { "GET", "/hang", "none", HTTP_INLINE, 0, hang, "Hangs." } };
    const struct http_options options = { .host = "127.0.0.1", .connections = 4, .idle_ms = 10000, .body_bytes = 1024,
                                          .routes = routes, .n_routes = 1 };
    struct claas_error err = ERR_INIT;
    struct http *h = NULL;
    ck_assert_int_eq(sem_init(&let_go, 0, 0), 0);
    ck_ok(http_start(&options, &h, &err), err);
    ck_assert_int_eq(http_alive(h, 5000), 1);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons(http_port(h)) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(send(fd, "GET /hang HTTP/1.0\r\n\r\n", 22, 0), 22);
    while (http_alive(h, 200)) { /* until it has got there */
    }
    ck_assert_int_eq(http_alive(h, 200), 0);
    ck_assert_int_eq(sem_post(&let_go), 0);
    ck_assert_int_eq(http_alive(h, 5000), 1);
    (void)close(fd);
    http_stop(h, 1000);
}
END_TEST

/* ---- the configuration while it changes ---- */

static struct snapshots all;

static struct config *config_number(int i)
{
    char text[64];
    struct claas_error err = ERR_INIT;
    struct config *c = NULL;
    int n = snprintf(text, sizeof text, "limits: {batch_items: %d}\ndefault_model: m%d\n", i, i);
    ck_ok(config_parse(text, (size_t)n, "c.yaml", "/", &c, &err), err);
    return c;
}

/* Whole and unchanged as long as it is held, whoever swaps. */
static void *reader(void *ctx)
{
    (void)ctx;
    for (int i = 0; i < 20000; i++) {
        struct snapshot *s = snapshot_take(&all);
        const struct config *c = snapshot_config(s);
        if (c->default_model[0] != 'm' || atoi(c->default_model + 1) != c->limits.batch_items) {
            return &all;
        }
        snapshot_drop(s);
    }
    return NULL;
}

START_TEST(readers_keep_what_they_took)
{
    struct claas_error err = ERR_INIT;
    pthread_t readers[4];
    void *bad = NULL;
    snapshots_init(&all);
    ck_assert_ptr_null(snapshot_take(&all));
    ck_ok(snapshots_swap(&all, config_number(1), &err), err);
    struct snapshot *first = snapshot_take(&all);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_create(&readers[i], NULL, reader, NULL), 0);
    }
    for (int i = 2; i < 200; i++) {
        ck_ok(snapshots_swap(&all, config_number(i), &err), err);
    }
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(readers[i], &bad), 0);
        ck_assert_ptr_null(bad);
    }
    ck_assert_str_eq(snapshot_config(first)->default_model, "m1");
    snapshot_drop(first);
    snapshots_close(&all);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("daemon");
    TCase *t = tcase_create("trace");
    tcase_add_test(t, traceparents_are_read_strictly);
    tcase_add_test(t, a_child_stays_in_its_trace);
    suite_add_tcase(s, t);
    t = tcase_create("habits");
    tcase_add_test(t, sockets_are_taken);
    tcase_add_loop_test(t, what_is_no_listening_socket_is_refused, 0,
                        sizeof no_sockets / sizeof no_sockets[0]);
    tcase_add_loop_test(t, the_manager_is_told, 0, 2);
    tcase_add_test(t, the_watchdog_is_for_us_only);
    tcase_add_test(t, who_hangs_is_not_alive);
    tcase_add_test(t, readers_keep_what_they_took);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
