/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "testing.h"

#include "base/file.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/print.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Splits a line at blanks and parses it as the words behind the program's name. */
static int parse(struct cli *c, const char *line)
{
    static char words[512];
    static char *argv[64];
    size_t n = 0;
    (void)snprintf(words, sizeof words, "%s", line);
    char *save = NULL;
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        argv[n++] = w;
    }
    FILE *nowhere = fopen("/dev/null", "w");
    int status = cli_parse(c, n, argv, nowhere);
    (void)fclose(nowhere);
    return status;
}

START_TEST(words_become_a_command)
{
    struct cli c;
    ck_assert_int_eq(parse(&c, "--url http://x:1 adapter log a/b --limit 5 --json"), 0);
    ck_assert_str_eq(c.command->name, "adapter log");
    ck_assert_str_eq(c.url, "http://x:1");
    ck_assert_str_eq(c.args[0], "a/b");
    ck_assert_str_eq(cli_value(&c, "limit"), "5");
    ck_assert_int_eq(c.json, 1);
    ck_assert_int_eq(parse(&c, "chat --max-tokens=7 -- --not-an-option"), 0);
    ck_assert_str_eq(c.args[0], "--not-an-option");
    ck_assert_str_eq(cli_value(&c, "max-tokens"), "7");
    ck_assert_ptr_null(cli_value(&c, "model"));
    ck_assert_int_eq(parse(&c, "chat --no-stream hello"), 0);
    ck_assert_ptr_nonnull(cli_value(&c, "no-stream"));
}
END_TEST

START_TEST(wrong_usage_is_told)
{
    static const char *const lines[] = {
        "",
        "dance",
        "adapter",
        "adapter dance",
        "adapter log",
        "adapter log a b",
        "chat --limit 3",
        "chat a b",
        "adapter rollback a",
        "chat --max-tokens",
        "chat --no-stream=1 x",
        "-x",
        "--url",
    };
    struct cli c;
    ck_assert_int_eq(parse(&c, lines[_i]), CLI_USAGE);
}
END_TEST

START_TEST(help_runs_nothing)
{
    struct cli c;
    ck_assert_int_eq(parse(&c, "adapter log --help"), 0);
    ck_assert_ptr_null(c.command);
}
END_TEST

START_TEST(settings_keep_their_type)
{
    cJSON *o = cJSON_CreateObject();
    ck_assert_int_eq(cli_add_settings("alpha=0.25", o), 0);
    ck_assert_int_eq(cli_add_settings("recompute=true", o), 0);
    ck_assert_int_eq(cli_add_settings("mode=quick", o), 0);
    ck_assert_int_eq(cli_add_settings("clip=inf", o),
                     0); /* JSON has no such number: the daemon refuses the text */
    ck_assert_int_eq(cli_add_settings("=1", o), CLI_USAGE);
    ck_assert_int_eq(cli_add_settings("nothing", o), CLI_USAGE);
    char *text = json_print(o);
    ck_assert_str_eq(text,
                     "{\"alpha\":0.25,\"recompute\":true,\"mode\":\"quick\",\"clip\":\"inf\"}");
    free(text);
    cJSON_Delete(o);
}
END_TEST

START_TEST(paths_are_escaped)
{
    const char *const pairs[] = { "id", "a/b c&d", "limit", NULL, "after", "\xC3\xA9", NULL };
    char *path = client_path("/v1/adapters", pairs);
    ck_assert_str_eq(path, "/v1/adapters?id=a%2Fb%20c%26d&after=%C3%A9");
    free(path);
}
END_TEST

START_TEST(an_unreachable_daemon_is_exit_7)
{
    struct cli c;
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    ck_assert_int_eq(parse(&c, "--url http://127.0.0.1:1 health"), 0);
    int rc = client_call(&c, "GET", "/v1/health", NULL, &answer, &err);
    ck_failed(rc, CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_int_eq(client_exit_status(&err), CLI_UNREACHABLE);
}
END_TEST

/* ---- a daemon that says one thing to one caller ---- */

struct canned {
    int listener;
    char url[64];
    const char *answer;
    pthread_t thread;
};

static void *canned_serve(void *arg)
{
    struct canned *s = arg;
    struct claas_error err = ERR_INIT;
    char request[4096];
    size_t n = 0;
    int fd = accept(s->listener, NULL, NULL);
    for (ssize_t got;
         n < sizeof request - 1 && (got = read(fd, request + n, sizeof request - 1 - n)) > 0;) {
        n += (size_t)got;
        request[n] = '\0';
        if (strstr(request, "\r\n\r\n{") ? request[n - 1] == '}'
                                         : strncmp(request, "POST", 4) != 0) {
            break;
        }
    }
    (void)fd_write_all(fd, s->answer, strlen(s->answer), "socket",
                       &err); /* the caller may have hung up */
    (void)close(fd);
    return NULL;
}

static void canned_start(struct canned *s, const char *answer)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof at;
    s->answer = answer;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(s->listener, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(listen(s->listener, 1), 0);
    ck_assert_int_eq(getsockname(s->listener, (struct sockaddr *)&at, &length), 0);
    (void)snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
    ck_assert_int_eq(pthread_create(&s->thread, NULL, canned_serve, s), 0);
}

static void canned_stop(struct canned *s)
{
    (void)pthread_join(s->thread, NULL);
    (void)close(s->listener);
}

static int count_event(void *ctx, const cJSON *event)
{
    *(int *)ctx += json_get(event, "n") != NULL;
    return 0;
}

#define STREAM "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

START_TEST(streams_end_well_or_are_told)
{
    static const struct {
        const char *answer;
        int code;
        int events;
        const char *says;
    } rows[] = {
        { STREAM "data: {\"n\":1}\n\ndata: {\"n\":2}\r\n\r\n: note\n\ndata: [DONE]\n\n", 0, 2, "" },
        { STREAM "data: {\"n\":1}\n\n", CLAAS_ERR_UNAVAILABLE, 1, "broke off" },
        { STREAM
          "data: {\"n\":1}\n\ndata: {\"error\":{\"code\":\"timeout\",\"message\":\"too slow\"}}\n\n"
          "data: [DONE]\n\n",
          CLAAS_ERR_TIMEOUT, 1, "too slow" },
        { STREAM "data: {\"error\":{}}\n\n", CLAAS_ERR_INTERNAL, 0, "without words" },
        { STREAM "data: {\"n\":\n\n", CLAAS_ERR_INVALID, 0, "not valid JSON" },
        { "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n"
          "{\"detail\":\"x\",\"error\":{\"code\":\"not_found\",\"message\":\"no adapter\"}}",
          CLAAS_ERR_NOT_FOUND, 0, "no adapter" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: {\"n\":1}\n", CLAAS_ERR_UNAVAILABLE,
          1, "broke off" },
        { "", CLAAS_ERR_UNAVAILABLE, 0, "broke off" },
        { "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", CLAAS_ERR_UNAVAILABLE, 0,
          "status 503" },
    };
    struct canned s;
    struct cli c;
    struct claas_error err = ERR_INIT;
    int events = 0;
    char line[128];
    canned_start(&s, rows[_i].answer);
    (void)snprintf(line, sizeof line, "--url %s chat x", s.url);
    ck_assert_int_eq(parse(&c, line), 0);
    cJSON *body = cJSON_CreateObject();
    int rc = client_stream(&c, "/v1/chat/completions", body, count_event, &events, &err);
    canned_stop(&s);
    ck_assert_msg(rc == rows[_i].code, "%d: %s", rc, err.message);
    ck_assert_int_eq(events, rows[_i].events);
    ck_assert_msg(rc == 0 || strstr(err.message, rows[_i].says) != NULL, "'%s'", err.message);
    ck_assert_int_ne(rc ? client_exit_status(&err) : CLI_FAILED, CLI_UNREACHABLE);
    cJSON_Delete(body);
}
END_TEST

START_TEST(refusals_have_their_exit_status)
{
    static const struct { const char *status; int exit;
    } rows[] = {
        { "401 No", CLI_NOT_PERMITTED }, { "403 No", CLI_NOT_PERMITTED },
        { "501 No", CLI_UNSUPPORTED },   { "422 No", CLI_FAILED },
        { "500 No", CLI_FAILED },        { "302 There", CLI_FAILED },
    };
    struct canned s;
    struct cli c;
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    char line[128];
    char reply[128];
    (void)snprintf(reply, sizeof reply, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n",
                   rows[_i].status);
    canned_start(&s, reply);
    (void)snprintf(line, sizeof line, "--url %s/ health", s.url);
    ck_assert_int_eq(parse(&c, line), 0);
    ck_assert_int_ne(client_call(&c, "GET", "/v1/health", NULL, &answer, &err), 0);
    canned_stop(&s);
    ck_assert_ptr_null(answer);
    ck_assert_int_eq(client_exit_status(&err), rows[_i].exit);
}
END_TEST

#define OK_JSON "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"

START_TEST(deleting_nothing_is_told)
{
    static const struct {
        const char *answer, *option;
        int exit;
    } rows[] = {
        { OK_JSON "{\"deleted\":true}", "", CLI_OK },
        { OK_JSON "{\"deleted\":false}", "", CLI_FAILED },
        { OK_JSON "{\"deleted\":false}", " --if-exists", CLI_OK },
        { "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", " --if-exists", CLI_NOT_PERMITTED },
    };
    struct canned s;
    struct cli c;
    char line[128];
    canned_start(&s, rows[_i].answer);
    (void)snprintf(line, sizeof line, "--url %s adapter delete x%s", s.url, rows[_i].option);
    ck_assert_int_eq(parse(&c, line), 0);
    ck_assert_int_eq(c.command->run(&c), rows[_i].exit);
    canned_stop(&s);
}
END_TEST

#define JOB(rest) "{\"id\":\"1f\",\"lora_id\":\"x\"," rest "}"
#define RUNS JOB("\"state\":\"running\",\"phase\":\"distill\",\"ended\":null,\"error\":null")
#define DONE JOB("\"state\":\"done\",\"phase\":\"done\",\"ended\":\"now\",\"version\":2,\"error\":null")
#define LOST JOB("\"state\":\"failed\",\"ended\":\"now\",\"error\":{\"code\":\"forbidden\",\"message\":\"no\"}")

/* What the command prints while it runs against one canned answer; on the heap. */
static char *printed_by(const char *answer, const char *words, int *out_status)
{
    struct canned s;
    struct cli c;
    struct claas_error err = ERR_INIT;
    struct buf said = BUF_INIT;
    char line[256];
    char file[] = "/tmp/claas-cli-XXXXXX";
    int to = mkstemp(file);
    canned_start(&s, answer);
    (void)snprintf(line, sizeof line, "--url %s %s", s.url, words);
    ck_assert_int_eq(parse(&c, line), 0);
    (void)fflush(stdout);
    int was = dup(STDOUT_FILENO);
    (void)dup2(to, STDOUT_FILENO);
    *out_status = c.command->run(&c);
    (void)fflush(stdout);
    (void)dup2(was, STDOUT_FILENO);
    (void)close(was);
    (void)close(to);
    canned_stop(&s);
    ck_ok(file_read(file, 1 << 16, &said, &err), err);
    (void)unlink(file);
    return said.data ? buf_take(&said) : strdup("");
}

#define GONE "{\"deleted\":true,\"rollouts\":2,\"feedback_records\":1,\"jobs_cancelled\":[\"1f\"]," \
             "\"versions_trained\":[{\"adapter\":\"me/x\",\"version\":7,\"feedback\":\"f1\"}],\"more_versions\":false}"

START_TEST(forgetting_tells_what_was_learnt)
{
    static const struct {
        const char *answer, *words, *says;
        int exit;
    } rows[] = {
        { OK_JSON GONE, "rollout delete c-1 --yes", "me/x", CLI_OK },
        { OK_JSON GONE, "rollout delete --user ada --yes", "deleted 2 rollouts", CLI_OK },
        { OK_JSON GONE, "rollout delete --owner k --user ada --yes --json", "\"version\":", CLI_OK },
        { OK_JSON "{\"deleted\":false}", "rollout delete c-1 --yes", "", CLI_FAILED },
        { OK_JSON "{\"deleted\":false}", "rollout delete --user ada --yes", "deleted 0 rollouts", CLI_OK },
        { "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "rollout delete c-1 --yes", "", CLI_NOT_PERMITTED },
    };
    int status = 0;
    char *said = printed_by(rows[_i].answer, rows[_i].words, &status);
    ck_assert_int_eq(status, rows[_i].exit);
    ck_assert_msg(strstr(said, rows[_i].says) != NULL, "%s", said);
    free(said);
}
END_TEST

/* Nobody is asked by a pipe, and nothing is deleted without a word. */
START_TEST(forgetting_wants_a_word)
{
    static const char *const rows[] = { "rollout delete c-1", "rollout delete --user ada", "rollout delete --yes",
                                        "rollout delete c-1 --user ada --yes", "rollout delete ../x --yes" };
    struct cli c;
    int was = dup(STDIN_FILENO);
    int none = open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)dup2(none, STDIN_FILENO);
    ck_assert_int_eq(parse(&c, rows[_i]), 0);
    ck_assert_int_eq(c.command->run(&c), CLI_USAGE);
    (void)dup2(was, STDIN_FILENO);
    (void)close(none);
    (void)close(was);
}
END_TEST

START_TEST(jobs_are_watched_to_their_end)
{
    static const struct {
        const char *answer, *words;
        int exit;
        const char *prints;
    } rows[] = {
        { STREAM "event: state\ndata: " RUNS "\n\n: still there\n\nevent: end\ndata: " DONE "\n\n", "job watch 1f",
          CLI_OK, "id: 1f\nlora_id: x\nstate: done\nphase: done\nended: now\nversion: 2\nerror: -\n" },
        { STREAM "data: " RUNS "\n\ndata: " DONE "\n\n", "job watch 1f --json", CLI_OK, RUNS "\n" DONE "\n" },
        { STREAM "data: " LOST "\n\n", "job watch 1f --json", CLI_NOT_PERMITTED, LOST "\n" },
        { STREAM "data: " RUNS "\n\n", "job watch 1f", CLI_FAILED, "" },
        { OK_JSON DONE, "job show 1f --json", CLI_OK, DONE "\n" },
        { OK_JSON "{\"jobs\":[" DONE "]}", "job list", CLI_OK,
          "id  lora_id  state  phase  version  accepted\n1f  x        done   done   2        -\n" },
        { OK_JSON "{\"audit\":[{\"action\":\"refused\",\"lora_id\":\"x\",\"owner\":\"k\",\"reason\":\"no\"}]}", "audit x", CLI_OK,
          "time  action   lora_id  version  owner  job  reason\n-     refused  x        -        k      -    no\n" },
        { "HTTP/1.1 409 Late\r\nContent-Length: 0\r\n\r\n", "job cancel 1f", CLI_FAILED, "" },
        { "HTTP/1.1 202 Yes\r\nConnection: close\r\n\r\n" RUNS, "feedback --model x --id c --async short", CLI_OK,
          "1f\n" },
    };
    int status;
    char *said = printed_by(rows[_i].answer, rows[_i].words, &status);
    ck_assert_int_eq(status, rows[_i].exit);
    ck_assert_str_eq(said, rows[_i].prints);
    free(said);
}
END_TEST

START_TEST(what_is_no_job_id_is_not_asked_for)
{
    struct cli c;
    ck_assert_int_eq(parse(&c, "--url http://127.0.0.1:1 job show ../x"), 0);
    ck_assert_int_eq(c.command->run(&c), CLI_USAGE);
}
END_TEST

START_TEST(options_may_be_repeated)
{
    struct cli c;
    ck_assert_int_eq(parse(&c, "feedback x --set a=1 --model m --set b=2 --model n"), 0);
    ck_assert_str_eq(cli_value(&c, "model"), "n");
    ck_assert_str_eq(cli_value_at(&c, "set", 0), "a=1");
    ck_assert_str_eq(cli_value_at(&c, "set", 1), "b=2");
    ck_assert_ptr_null(cli_value_at(&c, "set", 2));
}
END_TEST

START_TEST(tables_line_up_and_tame_control_characters)
{
    static const char *const columns[] = { "id", "m.loss", NULL };
    cJSON *list = cJSON_Parse(
        "[{\"id\":\"a\\u001b\\u009b[31m\",\"m\":{\"loss\":0.5}},{\"id\":[\"b\",\"c\"],\"m\":{}}]");
    char *out = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&out, &n);
    print_table(list, columns, to);
    (void)fclose(to);
    ck_assert_str_eq(out, "id        m.loss\na   [31m  0.5\nb, c      -\n");
    free(out);
    cJSON_Delete(list);
}
END_TEST

/* The page knows every command and every option, and no others. */
START_TEST(the_page_tells_every_command)
{
    struct claas_error err = ERR_INIT;
    struct buf page = BUF_INIT;
    char *path = path_join(getenv("abs_top_srcdir"), "man/claas.1");
    ck_ok(file_read(path, 1 << 20, &page, &err), err);
    size_t n = 0;
    for (const struct cli_command *it = cli_commands; it->name; it++, n++) {
        char line[128];
        (void)snprintf(line, sizeof line, ".It Ic %s", it->name);
        ck_assert_msg(strstr(page.data, line) != NULL, "the page lacks the command '%s'", it->name);
        for (const struct cli_option *o = it->options; o->name; o++) {
            (void)snprintf(line, sizeof line, "Fl Fl %s", o->name);
            ck_assert_msg(strstr(page.data, line) != NULL, "the page lacks the option '--%s'",
                          o->name);
        }
    }
    size_t on_page = 0;
    for (const char *p = page.data; (p = strstr(p, "\n.It Ic ")) != NULL; p++) {
        on_page++;
    }
    ck_assert_uint_eq(on_page, n);
    buf_clear(&page);
    free(path);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("cli");
    TCase *t = tcase_create("cli");
    tcase_add_test(t, words_become_a_command);
    tcase_add_loop_test(t, wrong_usage_is_told, 0, 13);
    tcase_add_test(t, help_runs_nothing);
    tcase_add_test(t, settings_keep_their_type);
    tcase_add_test(t, paths_are_escaped);
    tcase_add_test(t, an_unreachable_daemon_is_exit_7);
    tcase_add_loop_test(t, streams_end_well_or_are_told, 0, 9);
    tcase_add_loop_test(t, refusals_have_their_exit_status, 0, 6);
    tcase_add_loop_test(t, deleting_nothing_is_told, 0, 4);
    tcase_add_loop_test(t, jobs_are_watched_to_their_end, 0, 9);
    tcase_add_test(t, what_is_no_job_id_is_not_asked_for);
    tcase_add_loop_test(t, forgetting_tells_what_was_learnt, 0, 6);
    tcase_add_loop_test(t, forgetting_wants_a_word, 0, 5);
    tcase_add_test(t, options_may_be_repeated);
    tcase_add_test(t, tables_line_up_and_tame_control_characters);
    tcase_add_test(t, the_page_tells_every_command);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
