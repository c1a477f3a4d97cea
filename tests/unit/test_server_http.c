/* SPDX-License-Identifier: MIT */
/* What clients see over HTTP, of rooms around a plugin one can see through: answers in the form
 * that existing clients know, and everything bad that can be sent refused, named, and without a
 * trace. */
#include "config.h"

#include "toy.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "server/app.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY_MAX = 200000, BATCH_MAX = 3 };

static struct toy_house house;
static struct config config;
static struct app app;
static struct claas_error err;

/* ---- a whole server ---- */

static void open_rooms(void)
{
    char dir[128];
    struct serving *serving = NULL;
    struct feedback *feedback = NULL;
    (void)snprintf(dir, sizeof dir, "%s/state", house.root);
    ck_ok(state_open(dir, NULL, &app.state, &err), err);
    const struct serving_options so = { .inference = house.instance,
                                        .adapters = house.adapters,
                                        .state = app.state };
    ck_ok(serving_open(&so, &serving, &err), err);
    const struct feedback_options fo = { .engine = house.instance,
                                         .adapters = house.adapters,
                                         .state = app.state,
                                         .serving = serving,
                                         .engine_name = "toy",
                                         .lock_timeout_ms = 1000 };
    ck_ok(feedback_open(&fo, &feedback, &err), err);
    struct jobs *jobs = NULL;
    const struct jobs_options jo = { .feedback = feedback,
                                     .adapters = house.adapters,
                                     .state = app.state,
                                     .serving = serving,
                                     .queue_key = 2,
                                     .lock_ms = 1000,
                                     .ended = job_ended,
                                     .ctx = &app };
    ck_ok(jobs_open(&jo, &jobs, &err), err);
    atomic_store(&app.jobs, jobs);
    atomic_store(&app.adapters, house.adapters);
    atomic_store(&app.serving, serving);
    atomic_store(&app.feedback, feedback);
    atomic_store(&app.ready, 1);
}

static atomic_uint linger_ms; /* keeps libmicrohttpd's thread busy for so long, once */

static void count_answer(void *ctx, size_t route, int status, int64_t took_ns)
{
    (void)ctx;
    (void)usleep(atomic_exchange(&linger_ms, 0) * 1000);
    metrics_answered(&app.metrics, route, status, took_ns);
}

static void setup(void)
{
    err = ERR_INIT;
    toy_reset();
    toy.context = 600;
    toy_house_open(&house);
    config.engine.plugin = "toy";
    config.storage.plugin = "fs";
    config.inference.plugin = "";
    config.limits.batch_items = BATCH_MAX;
    app.config = &config;
    metrics_init(&app.metrics);
    open_rooms();
    const struct http_options options = { .host = "127.0.0.1",
                                          .connections = 16,
                                          .waiters = 2,
                                          .idle_ms = 10000,
                                          .body_bytes = BODY_MAX,
                                          .routes = app_routes,
                                          .n_routes = app_n_routes,
                                          .app = &app,
                                          .admit = app_admit,
                                          .moved = app_moved,
                                          .answered = count_answer };
    ck_ok(http_start(&options, &app.http, &err), err);
}

static void teardown(void)
{
    jobs_stop(atomic_load(&app.jobs), 0);
    http_stop(app.http, 1000);
    jobs_close(atomic_load(&app.jobs));
    feedback_close(atomic_load(&app.feedback));
    serving_close(atomic_load(&app.serving));
    access_close(app.access);
    app.access = NULL;
    state_close(app.state);
    toy_house_close(&house);
}

/* ---- a client ---- */

static struct buf heard = BUF_INIT; /* the whole last answer */

static const char *answer_body(void)
{
    const char *at = strstr(buf_str(&heard), "\r\n\r\n");
    ck_assert_ptr_nonnull(at);
    return at + 4;
}

static const char *more_headers = ""; /* of the requests to come */

/* 1.0, so that nothing is chunked and the end of the answer is the end of the connection. Returns the socket. */
static int send_request(const char *method, const char *path, const char *type, const char *body, size_t n)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons(http_port(app.http)) };
    struct buf request = BUF_INIT;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    buf_addf(&request, "%s %s HTTP/1.0\r\n%s%s%s", method, path, type ? "Content-Type: " : "",
             type ? type : "", type ? "\r\n" : "");
    buf_addf(&request, "%sContent-Length: %zu\r\n\r\n", more_headers, n);
    buf_add(&request, body, n);
    ck_ok(fd_write_all(fd, request.data, request.len, "socket", &err), err);
    buf_clear(&request);
    return fd;
}

/* All that comes, and closes the socket. */
static void hear(int fd)
{
    char piece[4096];
    buf_clear(&heard);
    for (ssize_t got; (got = read(fd, piece, sizeof piece)) > 0;) {
        buf_add(&heard, piece, (size_t)got);
    }
    (void)close(fd);
}

static int ask_hear(int fd)
{
    int status = 0;
    hear(fd);
    ck_assert_int_eq(sscanf(buf_str(&heard), "HTTP/1.%*d %d", &status), 1);
    return status;
}

static int ask(const char *method, const char *path, const char *type, const char *body, size_t n)
{
    return ask_hear(send_request(method, path, type, body, n));
}

static cJSON *answered(void)
{
    cJSON *v = NULL;
    const char *body = answer_body();
    ck_ok(json_parse(body, strlen(body), "answer", &v, &err), err);
    return v;
}

static int post(const char *path, const char *body)
{
    return ask("POST", path, "application/json", body, strlen(body));
}

static cJSON *post_ok(const char *path, const char *body)
{
    ck_assert_msg(post(path, body) == 200, "%s", buf_str(&heard));
    return answered();
}

static cJSON *get_ok(const char *path)
{
    ck_assert_msg(ask("GET", path, NULL, "", 0) == 200, "%s", buf_str(&heard));
    return answered();
}

static const char *text_at(const cJSON *o, const char *name)
{
    const cJSON *v = json_get(o, name);
    ck_assert_msg(cJSON_IsString(v), "'%s' is no text", name);
    return v->valuestring;
}

static double number_at(const cJSON *o, const char *name)
{
    const cJSON *v = json_get(o, name);
    ck_assert_msg(cJSON_IsNumber(v), "'%s' is no number", name);
    return v->valuedouble;
}

static const cJSON *choice_of(const cJSON *answer)
{
    return cJSON_GetArrayItem(json_get(answer, "choices"), 0);
}

/* ---- answers ---- */

#define CHAT "/v1/chat/completions"
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

START_TEST(a_chat_is_answered)
{
    cJSON *o = post_ok(CHAT, "{" HI ",\"logprobs\":true,\"nobody_knows_this\":1}");
    const cJSON *choice = choice_of(o);
    const cJSON *usage = json_get(o, "usage");
    const cJSON *token = cJSON_GetArrayItem(json_get(json_get(choice, "logprobs"), "content"), 0);
    ck_assert(strncmp(text_at(o, "id"), "chatcmpl-", 9) == 0);
    ck_assert_str_eq(text_at(o, "object"), "chat.completion");
    ck_assert_str_eq(text_at(o, "model"), "default");
    ck_assert(number_at(o, "created") > 0);
    ck_assert_str_eq(text_at(json_get(choice, "message"), "role"), "assistant");
    ck_assert_str_eq(text_at(json_get(choice, "message"), "content"), "base");
    ck_assert_str_eq(text_at(choice, "finish_reason"), "stop");
    ck_assert(number_at(usage, "prompt_tokens") + 5 == number_at(usage, "total_tokens"));
    ck_assert(number_at(usage, "completion_tokens") == 5); /* with the end of the turn */
    ck_assert_int_eq(cJSON_GetArraySize(json_get(json_get(choice, "logprobs"), "content")), 4);
    ck_assert_str_eq(text_at(token, "token"), "b");
    ck_assert(number_at(token, "logprob") < 0);
    ck_assert_int_eq(cJSON_GetArrayItem(json_get(token, "bytes"), 0)->valueint, 'b');
    ck_assert(cJSON_IsArray(json_get(token, "top_logprobs")));
    cJSON_Delete(o);
    o = post_ok(CHAT, "{" HI ",\"max_tokens\":2}");
    ck_assert_str_eq(text_at(choice_of(o), "finish_reason"), "length");
    ck_assert_str_eq(text_at(json_get(choice_of(o), "message"), "content"), "ba");
    cJSON_Delete(o);
}
END_TEST

START_TEST(a_text_is_continued)
{
    cJSON *o = post_ok("/v1/completions", "{\"prompt\":\"one\"}");
    ck_assert(strncmp(text_at(o, "id"), "cmpl-", 5) == 0);
    ck_assert_str_eq(text_at(o, "object"), "text_completion");
    ck_assert_str_eq(text_at(choice_of(o), "text"), "base");
    ck_assert_str_eq(text_at(choice_of(o), "finish_reason"), "stop");
    ck_assert(number_at(json_get(o, "usage"), "prompt_tokens") == 3);
    cJSON_Delete(o);
}
END_TEST

START_TEST(content_of_any_kind_becomes_text)
{
    static const struct {
        const char *content, *text;
    } rows[] = {
        { "\"a\"", "a" },
        { "null", "" },
        { "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]", "a\nb" },
        { "[\"a\",{\"content\":\"b\"},{\"type\":\"image_url\",\"image_url\":{}}]", "a\nb" },
        { "{\"text\":\"a\"}", "a" },
    };
    char body[256];
    char path[128];
    (void)snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":%s}]}",
                   rows[_i].content);
    cJSON *o = post_ok(CHAT, body);
    (void)snprintf(path, sizeof path, "/v1/rollouts/%s", text_at(o, "id"));
    ck_assert_int_eq(json_get(o, "warnings") != NULL, strstr(body, "image") != NULL);
    cJSON_Delete(o);
    o = get_ok(path);
    const cJSON *message = cJSON_GetArrayItem(json_get(o, "messages"), 0);
    ck_assert_str_eq(text_at(message, "content"), rows[_i].text);
    cJSON_Delete(o);
}
END_TEST

/* Whoever heard the beginning can rate it. */
START_TEST(what_was_said_of_a_cut_answer_is_recorded)
{
    static const int statuses[] = { 504, 499 };
    toy.cut_answers = _i == 0 ? CLAAS_ERR_TIMEOUT : CLAAS_ERR_CANCELLED;
    ck_assert_int_eq(post(CHAT, "{" HI "}"), statuses[_i]);
    ck_assert_ptr_nonnull(strstr(answer_body(), "called off"));
    cJSON *o = get_ok("/v1/rollouts");
    const cJSON *list = json_get(o, "rollouts");
    ck_assert_int_eq(cJSON_GetArraySize(list), 1);
    const cJSON *one = cJSON_GetArrayItem(list, 0);
    char where[128];
    (void)snprintf(where, sizeof where, "/v1/rollouts/%s", text_at(one, "id"));
    cJSON *r = get_ok(where);
    ck_assert_str_eq(text_at(r, "finish_reason"), "cancelled");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(r, "response_ids")), 1);
    cJSON_Delete(r);
    cJSON_Delete(o);
}
END_TEST

/* Waits until the only rollout is there. */
static cJSON *recorded(void)
{
    for (int i = 0; i < 500; i++) {
        cJSON *o = get_ok("/v1/rollouts");
        const cJSON *one = cJSON_GetArrayItem(json_get(o, "rollouts"), 0);
        char where[128] = "";
        (void)snprintf(where, sizeof where, "/v1/rollouts/%s", one ? text_at(one, "id") : "");
        cJSON_Delete(o);
        if (one) {
            return get_ok(where);
        }
        (void)usleep(20000);
    }
    ck_abort_msg("nothing was recorded");
    return NULL;
}

START_TEST(an_answer_whose_client_leaves_is_recorded)
{
    char piece[4096];
    const char *body = _i == 0 ? "{" HI "}" : "{" HI ",\"stream\":true}";
    toy.drip = 1;
    toy.gate_answers = 1;
    int fd = send_request("POST", CHAT, "application/json", body, strlen(body));
    toy_wait_at(&toy.at_answer_gate, 1);
    if (_i == 1) {
        ck_assert_int_gt(read(fd, piece, sizeof piece), 0); /* it has begun to be told */
    }
    (void)close(fd);
    (void)usleep(500000); /* until it is noticed */
    toy_open_gate();
    cJSON *o = recorded();
    ck_assert_str_eq(text_at(o, "finish_reason"), "cancelled");
    int n = cJSON_GetArraySize(json_get(o, "response_ids"));
    ck_assert(n > 0 && n < 5); /* all would have been 5 */
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "logprobs")), n);
    cJSON_Delete(o);
}
END_TEST

START_TEST(settings_nobody_knows_are_named)
{
    static const char body[] = "{%s\"requests\":[{\"lora_id\":\"x\",\"prompt\":\"Hi\",\"response\":\"v0\","
                               "\"feedback\":\"no\"},{\"lora_id\":\"x\",\"prompt\":\"Hi\",\"response\":\"v0\","
                               "\"feedback\":\"so\",\"training\":{\"sharpness\":3}}]}";
    char text[512];
    cJSON_Delete(post_ok("/v1/lora/init", "{\"lora_id\":\"x\"}"));
    cJSON_Delete(post_ok(CHAT, "{\"model\":\"x\"," HI "}"));
    (void)snprintf(text, sizeof text, body, "\"strict\":true,");
    ck_assert_int_eq(post("/v1/feedback", text), 422);
    ck_assert_ptr_nonnull(strstr(answer_body(), "training setting 'sharpness' is not known to the engine, and strict"));
    (void)snprintf(text, sizeof text, body, "\"strict\":1,");
    ck_assert_int_eq(post("/v1/feedback", text), 422);
    ck_assert_int_eq(toy.trains, 0);
    (void)snprintf(text, sizeof text, body, "");
    cJSON *o = post_ok("/v1/feedback", text);
    const cJSON *warnings = json_get(o, "warnings");
    ck_assert_int_eq(cJSON_GetArraySize(warnings), 1); /* of the second item alone */
    ck_assert_ptr_nonnull(strstr(cJSON_GetArrayItem(warnings, 0)->valuestring, "'sharpness'"));
    cJSON_Delete(o);
}
END_TEST

START_TEST(adapters_take_turns)
{
    uint64_t scopes[3];
    cJSON_Delete(post_ok("/v1/lora/init", "{\"lora_id\":\"x\"}"));
    cJSON_Delete(post_ok("/v1/lora/init", "{\"lora_id\":\"y\"}"));
    for (int i = 0; i < 3; i++) {
        static const char *const models[] = { "", "x", "y" };
        char body[128];
        (void)snprintf(body, sizeof body, "{\"model\":\"%s\"," HI "}", models[i]);
        cJSON_Delete(post_ok(CHAT, body));
        scopes[i] = toy.last_scope;
    }
    ck_assert(scopes[0] != scopes[1] && scopes[1] != scopes[2] && scopes[0] != scopes[2]);
}
END_TEST

START_TEST(tools_are_ignored_and_named)
{
    cJSON *o = post_ok(CHAT, "{" HI ",\"tools\":[{\"type\":\"function\"}],\"functions\":[]}");
    const cJSON *warnings = json_get(o, "warnings");
    ck_assert_int_eq(cJSON_GetArraySize(warnings), 1);
    ck_assert_str_eq(cJSON_GetArrayItem(warnings, 0)->valuestring, "tools: not supported, ignored");
    cJSON_Delete(o);
}
END_TEST

START_TEST(calls_of_tools_are_left_out_and_named)
{
    cJSON *o = post_ok(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"Rain?\"},"
                             "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\"}]},"
                             "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"yes\"}]}");
    const cJSON *warnings = json_get(o, "warnings");
    ck_assert_int_eq(cJSON_GetArraySize(warnings), 1);
    ck_assert_str_eq(cJSON_GetArrayItem(warnings, 0)->valuestring, "messages: calls of tools were left out");
    cJSON_Delete(o);
}
END_TEST

static int open_socket(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons(http_port(app.http)) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

/* Milliseconds until nobody is connected any more. */
static int64_t wait_until_alone(void)
{
    struct http_load load;
    int64_t begun_ns = clock_mono_ns();
    do {
        (void)usleep(5000);
        http_load(app.http, &load);
    } while (load.connections > 0 && clock_mono_ns() - begun_ns < INT64_C(8000000000));
    return (clock_mono_ns() - begun_ns) / 1000000;
}

/* What is sent in the next moments is seen at once, its end with it. */
static void keep_server_busy(void)
{
    static const char health[] = "GET /health HTTP/1.0\r\n\r\n";
    int fd = open_socket();
    atomic_store(&linger_ms, 300);
    ck_ok(fd_write_all(fd, health, sizeof health - 1, "socket", &err), err);
    while (atomic_load(&linger_ms) > 0) {
        (void)usleep(1000);
    }
    (void)close(fd);
}

START_TEST(uploads_that_are_left_do_not_stay)
{
    static const char part[] = "POST " CHAT " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                               "Content-Length: 1000\r\n\r\n{\"messages\":";
    keep_server_busy();
    for (int i = 0; i < 12; i++) { /* of 16 that there may be */
        int fd = open_socket();
        ck_ok(fd_write_all(fd, part, sizeof part - 1, "socket", &err), err);
        (void)close(fd);
    }
    ck_assert_int_lt(wait_until_alone(), 4000); /* idle ones stay for 10 s */
}
END_TEST

START_TEST(a_half_closed_client_is_answered_and_let_go)
{
    static const char two[] = "GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n";
    char piece[4096];
    keep_server_busy();
    int fd = open_socket();
    ck_ok(fd_write_all(fd, two, sizeof two - 1, "socket", &err), err);
    ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
    int64_t begun_ns = clock_mono_ns();
    buf_clear(&heard);
    for (ssize_t got; (got = read(fd, piece, sizeof piece)) > 0;) {
        buf_add(&heard, piece, (size_t)got);
    }
    (void)close(fd);
    ck_assert_int_lt(clock_mono_ns() - begun_ns, INT64_C(5000000000));
    const char *first = strstr(buf_str(&heard), "200 OK");
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_nonnull(strstr(first + 1, "200 OK"));
}
END_TEST

/* The next event of a stream, "" behind the last one. */
static const char *event_next(const char **at)
{
    static char line[4096];
    const char *end = strstr(*at, "\n\n");
    line[0] = '\0';
    if (end) {
        ck_assert_msg(strncmp(*at, "data: ", 6) == 0, "no event: %s", *at);
        (void)snprintf(line, sizeof line, "%.*s", (int)(end - *at - 6), *at + 6);
        *at = end + 2;
    }
    return line;
}

START_TEST(a_stream_has_its_frame)
{
    const char *const path = _i == 0 ? CHAT : "/v1/completions";
    ck_assert_int_eq(post(path, "{" HI ",\"prompt\":\"Hi\",\"stream\":true,"
                                "\"stream_options\":{\"include_usage\":true}}"),
                     200);
    ck_assert_ptr_nonnull(strcasestr(buf_str(&heard), "content-type: text/event-stream"));
    const char *at = answer_body();
    char said[64] = "";
    char id[STATE_ID_CAP] = "";
    int n = 0;
    int ended = 0;
    int used = 0;
    const char *line;
    while ((line = event_next(&at))[0] == '{') {
        cJSON *o = NULL;
        ck_ok(json_parse(line, strlen(line), "event", &o, &err), err);
        const cJSON *choice = choice_of(o);
        const cJSON *delta = _i == 0 ? json_get(choice, "delta") : choice;
        const cJSON *text = json_get(delta, _i == 0 ? "content" : "text");
        ck_assert_str_eq(text_at(o, "object"),
                         _i == 0 ? "chat.completion.chunk" : "text_completion");
        ck_assert(n == 0 || strcmp(id, text_at(o, "id")) == 0);
        (void)snprintf(id, sizeof id, "%s", text_at(o, "id"));
        ck_assert_int_eq(json_get(delta, "role") != NULL, n == 0 && _i == 0);
        if (text) {
            (void)snprintf(said + strlen(said), sizeof said - strlen(said), "%s",
                           text->valuestring);
        }
        ck_assert(!ended || !choice); /* nothing but the use of tokens behind the end */
        ended |= json_get(choice, "finish_reason") != NULL;
        used += json_get(o, "usage") != NULL;
        n++;
        cJSON_Delete(o);
    }
    ck_assert_str_eq(line, "[DONE]");
    ck_assert_str_eq(at, "");
    ck_assert_str_eq(said, "base");
    ck_assert(ended && used == 1 && n >= 4);
}
END_TEST

#define OLD "/v1/completions"

/* The older form: lists by token, the sampled one among the best of each, places counted in characters. */
START_TEST(a_text_has_its_logprobs)
{
    toy.say = "h\xC3\xA9y";
    cJSON *o = post_ok(OLD, "{\"prompt\":\"one\",\"logprobs\":1}");
    const cJSON *l = json_get(choice_of(o), "logprobs");
    const cJSON *tops = json_get(l, "top_logprobs");
    static const int offsets[] = { 0, 1, 1, 2 };
    ck_assert_int_eq(cJSON_GetArraySize(tops), 4);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(l, "tokens")), 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(cJSON_GetArrayItem(json_get(l, "text_offset"), i)->valueint, offsets[i]);
    }
    ck_assert_str_eq(cJSON_GetArrayItem(json_get(l, "tokens"), 0)->valuestring, "h");
    const cJSON *best = cJSON_GetArrayItem(tops, 0);
    ck_assert_int_eq(cJSON_GetArraySize(best), 2); /* what might have been said, and what was */
    ck_assert(number_at(best, "y") == -2);
    ck_assert(number_at(best, "h") == cJSON_GetArrayItem(json_get(l, "token_logprobs"), 0)->valuedouble);
    ck_assert_int_eq(cJSON_GetArraySize(cJSON_GetArrayItem(tops, 3)), 1); /* "y" was said: once */
    cJSON_Delete(o);
    o = post_ok(OLD, "{\"prompt\":\"one\",\"logprobs\":0}");
    l = json_get(choice_of(o), "logprobs");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(l, "token_logprobs")), 4);
    ck_assert(cJSON_IsNull(cJSON_GetObjectItem(l, "top_logprobs")));
    cJSON_Delete(o);
    o = post_ok(OLD, "{\"prompt\":\"one\"}");
    ck_assert_ptr_null(json_get(choice_of(o), "logprobs"));
    cJSON_Delete(o);
    o = post_ok(OLD, "{\"prompt\":\"one\",\"logprobs\":true}");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "warnings")), 1);
    cJSON_Delete(o);
}
END_TEST

/* Joins the tokens of an event's choice; returns how many there were. */
static int tokens_of(const cJSON *choice, int chat, char *joined, size_t cap)
{
    const cJSON *l = json_get(choice, "logprobs");
    const cJSON *list = json_get(l, chat ? "content" : "tokens");
    const cJSON *one;
    cJSON_ArrayForEach(one, list)
    {
        const char *token = chat ? text_at(one, "token") : one->valuestring;
        (void)snprintf(joined + strlen(joined), cap - strlen(joined), "%s", token);
    }
    ck_assert(chat || !l || cJSON_GetArraySize(json_get(l, "token_logprobs")) == cJSON_GetArraySize(list));
    return cJSON_GetArraySize(list);
}

/* Each piece of text comes with the tokens that it is made of, though the plugin's text comes late; thinking, which is
 * not shown, has its tokens nevertheless, as in a whole answer. */
START_TEST(pieces_carry_their_logprobs)
{
    const int chat = _i != 1;
    toy.drip = 1;
    toy.say = _i == 2 ? "<think>no</think>base" : "base";
    toy.top_id = _i == 0 ? TOY_VOCAB + 7 : 0; /* spelt by nobody */
    ck_assert_int_eq(post(chat ? CHAT : OLD, chat ? "{" HI ",\"logprobs\":true,\"top_logprobs\":1,\"stream\":true}"
                                                  : "{\"prompt\":\"Hi\",\"logprobs\":1,\"stream\":true}"),
                     200);
    const char *at = answer_body();
    char all[64] = "";
    int offset = 0;
    int n_with_text = 0;
    const char *line;
    while ((line = event_next(&at))[0] == '{') {
        cJSON *o = NULL;
        ck_ok(json_parse(line, strlen(line), "event", &o, &err), err);
        const cJSON *choice = choice_of(o);
        const cJSON *text = json_get(chat ? json_get(choice, "delta") : choice, chat ? "content" : "text");
        char joined[64] = "";
        int n = tokens_of(choice, chat, joined, sizeof joined);
        if (text && text->valuestring[0]) {
            ck_assert_int_gt(n, 0);
            ck_assert_str_eq(joined + strlen(joined) - strlen(text->valuestring), text->valuestring);
            ck_assert(_i == 2 || strcmp(joined, text->valuestring) == 0);
            n_with_text++;
        }
        if (!chat && n > 0) {
            const cJSON *offsets = json_get(json_get(choice, "logprobs"), "text_offset");
            ck_assert_int_eq(cJSON_GetArrayItem(offsets, 0)->valueint, offset);
            offset += n;
        }
        (void)snprintf(all + strlen(all), sizeof all - strlen(all), "%s", joined);
        cJSON_Delete(o);
    }
    ck_assert_str_eq(line, "[DONE]");
    ck_assert_str_eq(all, toy.say);
    ck_assert_int_ge(n_with_text, 3);
    ck_assert_int_eq(toy.decodes_in_pieces, 0);
}
END_TEST

START_TEST(the_daemon_tells_of_itself)
{
    cJSON *o = get_ok("/");
    ck_assert_str_eq(text_at(o, "version"), PACKAGE_VERSION);
    ck_assert_ptr_nonnull(json_get(o, "description"));
    ck_assert_ptr_nonnull(json_get(o, "docs"));
    cJSON_Delete(o);
    o = get_ok("/v1/health");
    ck_assert_str_eq(text_at(o, "status"), "healthy");
    ck_assert_str_eq(text_at(json_get(o, "worker"), "status"), "healthy");
    cJSON_Delete(o);
    ck_assert_int_eq(ask("GET", "/metrics", NULL, "", 0), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), "\nclaas_rollouts 0\n"));
    o = get_ok("/v1/models");
    ck_assert_str_eq(text_at(o, "object"), "list");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "data")), 1);
    cJSON_Delete(o);
}
END_TEST

/* The number behind a name with its labels, as /metrics has it now. */
static double metric(const char *name)
{
    char line[256];
    ck_assert_int_eq(ask("GET", "/metrics", NULL, "", 0), 200);
    (void)snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(answer_body(), line);
    ck_assert_msg(at != NULL, "there is no '%s'", name);
    return strtod(at + strlen(line), NULL);
}

#define CHATTED "{route=\"/v1/chat/completions\",method=\"POST\""

START_TEST(metrics_count)
{
    cJSON_Delete(post_ok("/v1/lora/init", "{\"lora_id\":\"x\"}"));
    cJSON_Delete(post_ok(CHAT, "{\"model\":\"x\"," HI "}"));
    ck_assert_int_eq(post(CHAT, "{}"), 422);
    ck_assert_int_eq(post("/v1/nowhere", "{}"), 404);
    cJSON_Delete(post_ok("/v1/feedback", "{\"requests\":[{\"lora_id\":\"x\",\"prompt\":\"Hi\",\"response\":\"v0\","
                                         "\"feedback\":\"no\"}]}"));
    ck_assert(metric("claas_http_requests_total" CHATTED ",code=\"200\"}") == 1);
    ck_assert(metric("claas_http_requests_total" CHATTED ",code=\"422\"}") == 1);
    ck_assert(metric("claas_http_requests_total{route=\"none\",method=\"\",code=\"404\"}") == 1);
    ck_assert(metric("claas_http_request_duration_seconds_bucket" CHATTED ",le=\"+Inf\"}") == 2);
    ck_assert(metric("claas_http_request_duration_seconds_count" CHATTED "}") == 2);
    ck_assert(metric("claas_time_to_first_token_seconds_count") == 1);
    ck_assert(metric("claas_time_to_first_token_seconds_sum") <= metric("claas_http_request_duration_seconds_sum" CHATTED "}"));
    ck_assert(metric("claas_completion_tokens_total") > 0 && metric("claas_prompt_tokens_total") > 0);
    ck_assert(metric("claas_steps_total{result=\"ok\"}") == 1);
    ck_assert(metric("claas_step_duration_seconds_count{phase=\"distill\"}") == 1);
    ck_assert(metric("claas_step_duration_seconds_count{phase=\"total\"}") == 1);
    ck_assert(metric("claas_log_cache_hits_total") > 0 && metric("claas_log_cache_bytes") > 0);
    ck_assert(metric("claas_config_last_reload_successful") == 1);
    ck_assert(metric("process_resident_memory_bytes") > 1 << 20);
    ck_assert(metric("process_open_fds") > 3 && metric("process_open_fds") <= metric("process_max_fds"));
    ck_assert(metric("process_start_time_seconds") > 1.6e9);
}
END_TEST

/* Of the table all, once, and of others none; each line a name of the last TYPE; no request makes it longer. */
START_TEST(metrics_have_their_form)
{
    static const char *const names[] = {
#define X(name, type, help) name,
        METRICS_TABLE(X)
#undef X
    };
    char head[128];
    ck_assert_int_eq(ask("GET", "/metrics", NULL, "", 0), 200);
    ck_assert_int_eq(ask("GET", "/metrics", NULL, "", 0), 200);
    size_t n = strlen(answer_body());
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(head, sizeof head, "# TYPE %s ", names[i]);
        const char *at = strstr(answer_body(), head);
        ck_assert_msg(at && !strstr(at + 1, head), "'%s' once", names[i]);
    }
    char type[128] = "";
    for (const char *p = answer_body(); *p; p = strchr(p, '\n') + 1) {
        ck_assert(strchr(p, '\n'));
        if (*p == '#') {
            ck_assert_int_eq(sscanf(p, "# %*s %127s", type), 1);
        } else {
            ck_assert_msg(strncmp(p, type, strlen(type)) == 0 && strchr("{ _", p[strlen(type)]), "'%.60s' below '%s'", p, type);
        }
    }
    for (int i = 0; i < 20; i++) {
        (void)snprintf(head, sizeof head, "/v1/rollouts/none-%d?x=%d", i, i);
        ck_assert_int_eq(ask("GET", head, NULL, "", 0), 404);
    }
    ck_assert_int_eq(ask("GET", "/metrics", NULL, "", 0), 200);
    ck_assert_uint_lt(strlen(answer_body()), n + 3000); /* one route more */
}
END_TEST

/* ---- feedback and versions ---- */

static void create(const char *id)
{
    char body[128];
    (void)snprintf(body, sizeof body, "{\"lora_id\":\"%s\"}", id);
    cJSON_Delete(post_ok("/v1/lora/init", body));
}

START_TEST(existing_clients_learn)
{
    cJSON *o = post_ok("/v1/lora/init", "{\"lora_id\":\"user/m\",\"lora_r\":8,\"lora_alpha\":16}");
    ck_assert_str_eq(text_at(o, "lora_id"), "user/m-init");
    cJSON_Delete(o);
    cJSON_Delete(post_ok(CHAT, "{\"model\":\"user/m-latest\"," HI "}"));
    o = post_ok("/v1/feedback",
                "{\"requests\":[{\"lora_id\":\"user/m-init\",\"prompt\":\"Hi\",\"response\":\"v0\","
                "\"feedback\":\"be brief\",\"training\":{\"learning_rate\":0.1}}],"
                "\"orchestration\":{\"sleep_before\":true,\"sleep_level\":2}}");
    ck_assert_str_eq(text_at(o, "status"), "ok");
    ck_assert_uint_eq(strlen(text_at(o, "request_id")), 32);
    ck_assert_str_eq(text_at(o, "lora_id"), "user/m");
    const cJSON *distill = json_get(o, "distill_result");
    ck_assert_str_eq(text_at(distill, "lora_id"), "user/m");
    ck_assert(number_at(json_get(distill, "metadata"), "total_loss") == 0.5);
    ck_assert(number_at(json_get(distill, "metadata"), "batch_size") == 1);
    ck_assert(cJSON_IsBool(json_get(json_get(o, "vllm"), "slept")));
    ck_assert(cJSON_IsBool(json_get(json_get(o, "vllm"), "woke")));
    ck_assert(text_at(o, "feedback_log_path")[0] != '\0');
    static const char *const times[] = { "sleep", "distill", "save", "wake", "logprobs", "total" };
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        ck_assert(number_at(json_get(o, "timing_ms"), times[i]) >= 0);
    }
    ck_assert(number_at(o, "batch_size") == 1);
    ck_assert(number_at(o, "version_from") == 1 && number_at(o, "version") == 2);
    cJSON_Delete(o);
    o = post_ok(CHAT, "{\"model\":\"user-m\"," HI "}"); /* as flattened names come */
    ck_assert_str_eq(text_at(json_get(choice_of(o), "message"), "content"), "v1");
    ck_assert(number_at(json_get(o, "claas"), "version") == 2);
    cJSON_Delete(o);
}
END_TEST

/* ---- what is refused ---- */

struct refusal {
    int status;
    const char *method, *path, *type, *body;
    const char *says; /* a part of the answer */
};

#define JSON "application/json"
#define POST_CHAT "POST", CHAT, JSON
#define WITH(members) "{" HI "," members "}"
#define ID(id) "{\"lora_id\":\"" id "\"}"
#define INIT "POST", "/v1/lora/init", JSON
#define ROLL "POST", "/v1/adapters/rollback", JSON
#define ALIAS "POST", "/v1/adapters/aliases", JSON
#define FEEDBACK "POST", "/v1/feedback", JSON
#define ITEM(id, response, more) \
    "{\"lora_id\":\"" id "\",\"prompt\":\"Hi\",\"response\":\"" response \
    "\",\"feedback\":\"f\"" more "}"
#define BATCH(items) "{\"requests\":[" items "]}"
#define TRAIN(setting) BATCH(ITEM("x", "v0", ",\"training\":{" setting "}"))
#define LONG_20 "aaaaaaaaaaaaaaaaaaaa"
#define LONG_100 LONG_20 LONG_20 LONG_20 LONG_20 LONG_20
#define LONG LONG_100 LONG_100 LONG_100 LONG_100 LONG_100 LONG_100

static const struct refusal refusals[] = {
    /* HTTP */
    { 404, "GET", "/v1/nope", NULL, "", "no such route" },
    { 404, "GET", "/v1/feedback/recent", NULL, "", "no such route" },
    { 405, "GET", CHAT, NULL, "", "not allowed" },
    { 405, "PUT", "/v1/lora", NULL, "", "not allowed" },
    { 415, "POST", CHAT, "text/plain", "{" HI "}", "application/json" },
    { 415, "POST", CHAT, NULL, "{" HI "}", "application/json" },
    /* JSON */
    { 422, POST_CHAT, "", "json_invalid" },
    { 422, POST_CHAT, "{nope", "json_invalid" },
    { 422, POST_CHAT, "[]", "must be a JSON object" },
    { 422, POST_CHAT, "{" HI "} x", "json_invalid" },
    { 422, POST_CHAT, WITH("\"model\":\"\",\"model\":\"\""), "'model' twice" },
    { 400, POST_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xFF\"}]}", "UTF-8" },
    { 422, POST_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}", "JSON" },
    { 422, POST_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", "U+0000" },
    /* questions */
    { 422, POST_CHAT, "{}", "\"messages\"" },
    { 422, POST_CHAT, "{\"messages\":[]}", "at least 1 item" },
    { 422, POST_CHAT, "{\"messages\":\"Hi\"}", "valid list" },
    { 422, POST_CHAT, "{\"messages\":[\"Hi\"]}", "model_attributes_type" },
    { 422, POST_CHAT, "{\"messages\":[{\"content\":\"Hi\"}]}", "messages.0.role" },
    { 422, POST_CHAT, WITH("\"temperature\":2.1"), "\"temperature\"" },
    { 422, POST_CHAT, WITH("\"temperature\":1e999"), "\"temperature\"" },
    { 422, POST_CHAT, WITH("\"top_p\":0"), "\"top_p\"" },
    { 422, POST_CHAT, WITH("\"min_p\":2"), "\"min_p\"" },
    { 422, POST_CHAT, WITH("\"max_tokens\":0"), "\"max_tokens\"" },
    { 422, POST_CHAT, WITH("\"max_tokens\":1.5"), "int_from_float" },
    { 422, POST_CHAT, WITH("\"stop\":[\"\"]"), "\"stop\"" },
    { 422, POST_CHAT, WITH("\"stop_token_ids\":[258]"), "\"stop_token_ids\"" },
    { 422, POST_CHAT, WITH("\"logprobs\":true,\"top_logprobs\":21"), "\"top_logprobs\"" },
    { 422, POST_CHAT, WITH("\"logprobs\":true,\"top_logprobs\":3"), "at most 2" },
    { 422, "POST", "/v1/completions", JSON, "{\"prompt\":\"Hi\",\"logprobs\":3}", "'logprobs' is 3: this server gives at most 2" },
    { 422, "POST", "/v1/completions", JSON, "{\"prompt\":\"Hi\",\"logprobs\":-1}", "\"logprobs\"" },
    { 422, "POST", "/v1/completions", JSON, "{\"prompt\":\"Hi\",\"logprobs\":true,\"strict\":true}", "\"logprobs\"" },
    { 422, POST_CHAT, WITH("\"stream\":\"yes\""), "\"stream\"" },
    { 422, POST_CHAT, WITH("\"n\":2"), "\"n\"" },
    { 422, POST_CHAT, WITH("\"strict\":true,\"tools\":[{\"type\":\"function\"}]"), "\"tools\"" },
    { 422, POST_CHAT, WITH("\"strict\":true,\"response_format\":{\"type\":\"json_object\"}"),
      "\"response_format\"" },
    { 404, POST_CHAT, WITH("\"model\":\"no/such\""), "no/such" },
    { 404, POST_CHAT, WITH("\"model\":\"../x\""), "../x" },
    { 422, POST_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"" LONG "\"}]}", "600" },
    { 422, "POST", "/v1/completions", JSON, "{}", "\"prompt\"" },
    { 422, "POST", "/v1/completions", JSON, "{\"prompt\":\"\"}", "empty" },
    { 422, "POST", "/v1/completions", JSON, "{\"prompt\":[1,2]}", "\"prompt\"" },
    { 422, "POST", "/v1/completions", JSON, "{\"prompt\":\"" LONG "\"}", "600" },
    { 422, "POST", "/v1/score", JSON, "{" HI "}", "\"completion\"" },
    { 422, "POST", "/v1/score", JSON, "{\"model\":\"\"," HI ",\"completion\":\"" LONG "\"}",
      "600" },
    /* names */
    { 422, INIT, "{}", "\"lora_id\"" },
    { 422, INIT, ID(""), "\"lora_id\"" },
    { 422, INIT, ID("../x"), "no adapter id" },
    { 422, INIT, ID("a/../b"), "no adapter id" },
    { 422, INIT, ID("a/.b"), "no adapter id" },
    { 422, INIT, ID("a//b"), "no adapter id" },
    { 422, INIT, ID("a\\\\b"), "no adapter id" },
    { 422, INIT, ID("~x"), "no adapter id" },
    { 422, INIT, ID("a b"), "no adapter id" },
    { 422, INIT, ID("x\\u0000y"), "U+0000" },
    { 422, INIT, ID("toy/model"), "base model" },
    { 403, INIT, "{\"lora_id\":\"n\",\"base_model\":\"other\"}", "allowed are" },
    { 422, INIT, "{\"lora_id\":\"n\",\"lora_r\":65}", "lora_r" },
    { 422, INIT, "{\"lora_id\":\"n\",\"lora_r\":0,\"lora_alpha\":0}", "; lora_alpha" },
    { 422, "DELETE", "/v1/lora?lora_id=../x", NULL, "", "no adapter id" },
    { 422, "DELETE", "/v1/lora?lora_id=x%00y", NULL, "", "no adapter id" },
    { 422, "DELETE", "/v1/lora?lora_id=x@1", NULL, "", "one version" },
    { 422, "DELETE", "/v1/lora", NULL, "", "\"lora_id\"" },
    { 404, "GET", "/v1/lora/export?lora_id=none", NULL, "", "'none'" },
    { 422, "GET", "/v1/lora/export?lora_id=..%2Fx", NULL, "", "no adapter id" },
    { 422, "GET", "/v1/lora?limit=0", NULL, "", "\"limit\"" },
    { 422, "GET", "/v1/lora?prefix=%FF", NULL, "", "UTF-8" },
    { 404, "GET", "/v1/adapters?id=none", NULL, "", "'none'" },
    { 404, "GET", "/v1/adapters?id=x@9", NULL, "", "no version 9" },
    { 422, "GET", "/v1/adapters?id=..", NULL, "", "no adapter id" },
    { 422, "GET", "/v1/adapters/versions", NULL, "", "\"id\"" },
    { 422, ROLL, "{\"id\":\"x\"}", "\"version\"" },
    { 422, ROLL, "{\"id\":\"x\",\"version\":0}", "\"version\"" },
    { 422, ROLL, "{\"id\":\"../x\",\"version\":1}", "no adapter id" },
    { 404, ROLL, "{\"id\":\"none\",\"version\":1}", "'none'" },
    { 404, ROLL, "{\"id\":\"x\",\"version\":9}", "no version 9" },
    { 422, ALIAS, "{\"alias\":\"../x\",\"id\":\"x\"}", "no adapter id" },
    { 422, ALIAS, "{\"alias\":\"x\",\"id\":\"y\"}", "id of an adapter" },
    { 422, ALIAS, "{\"alias\":\"toy/model\",\"id\":\"x\"}", "base model" },
    { 404, ALIAS, "{\"alias\":\"a\",\"id\":\"none\"}", "'none'" },
    { 404, "GET", "/v1/rollouts/chatcmpl-none", NULL, "", "chatcmpl-none" },
    { 404, "GET", "/v1/rollouts/..", NULL, "", "'..'" },
    /* feedback */
    { 422, FEEDBACK, "{}", "\"requests\"" },
    { 422, FEEDBACK, BATCH(""), "at least 1 item" },
    { 422, FEEDBACK, BATCH("1,2,3,4"), "at most 3" },
    { 422, FEEDBACK, BATCH("{\"lora_id\":\"x\"}"), "requests.0.prompt" },
    { 422, FEEDBACK, BATCH(ITEM("x", "", "")), "requests.0.response" },
    { 404, FEEDBACK, BATCH(ITEM("x", "never said", "")), "never given" },
    { 404, FEEDBACK, BATCH(ITEM("x", "v0", ",\"completion_id\":\"none\"")), "never given" },
    { 404, FEEDBACK, BATCH(ITEM("none", "v0", "")), "'none'" },
    { 422, FEEDBACK, BATCH(ITEM("../x", "v0", "")), "no adapter id" },
    { 422, FEEDBACK, BATCH(ITEM("x@1", "v0", "")), "fixed version" },
    { 400, FEEDBACK, BATCH(ITEM("x", "v0", "") "," ITEM("y", "v0", "")), "one adapter" },
    { 400, FEEDBACK,
      BATCH(ITEM("x", "v0", "") "," ITEM("x", "v0", ",\"training\":{\"burn\":5}")),
      "same training" },
    { 422, FEEDBACK, TRAIN("\"learning_rate\":2"), "learning_rate" },
    { 422, FEEDBACK, TRAIN("\"learning_rate\":\"x\""), "learning_rate" },
    { 422, FEEDBACK, TRAIN("\"learning_rate\":2,\"burn\":11"), "; burn" },
    { 422, FEEDBACK, TRAIN("\"steps_per_batch\":65"), "steps_per_batch" },
    { 422, FEEDBACK, BATCH(ITEM("x", "v0", ",\"training\":[]")), "valid dictionary" },
    { 422, FEEDBACK,
      "{\"requests\":[" ITEM("x", "v0", "") "],\"orchestration\":{\"sleep_level\":3}}",
      "sleep_level" },
};

/* Every refusal has both forms: `detail` for clients of the Python system, `error` for OpenAI's. */
static void ck_refusal(const struct refusal *row, int status)
{
    ck_assert_msg(status == row->status, "%s %s %s: %s", row->method, row->path, row->body,
                  buf_str(&heard));
    ck_assert_msg(strstr(answer_body(), row->says), "no '%s' in: %s", row->says, answer_body());
    cJSON *o = answered();
    const cJSON *e = json_get(o, "error");
    const cJSON *detail = json_get(o, "detail");
    ck_assert(text_at(e, "message")[0] != '\0');
    ck_assert(text_at(e, "code")[0] != '\0' && text_at(e, "type")[0] != '\0');
    ck_assert(cJSON_HasObjectItem(e, "param"));
    ck_assert(cJSON_IsString(detail) || cJSON_IsArray(detail));
    const cJSON *violation;
    if (cJSON_IsArray(detail)) {
        cJSON_ArrayForEach(violation, detail) {
            ck_assert(cJSON_IsArray(json_get(violation, "loc")));
            ck_assert(text_at(violation, "msg")[0] != '\0');
            ck_assert(text_at(violation, "type")[0] != '\0');
        }
    }
    cJSON_Delete(o);
}

START_TEST(bad_requests_are_refused_and_change_nothing)
{
    struct state_counts before;
    struct state_counts after;
    create("x");
    create("y");
    cJSON_Delete(post_ok(CHAT, "{\"model\":\"x\"," HI "}"));
    cJSON_Delete(post_ok(CHAT, "{\"model\":\"y\"," HI "}"));
    ck_ok(state_count(app.state, &before, &err), err);
    const struct refusal *row = &refusals[_i];
    ck_refusal(row, ask(row->method, row->path, row->type, row->body, strlen(row->body)));
    ck_ok(state_count(app.state, &after, &err), err);
    ck_assert_uint_eq(after.rollouts, before.rollouts);
    ck_assert_uint_eq(after.feedback, before.feedback);
    ck_assert_int_eq(toy.trains, 0);
    ck_assert_int_eq(toy.creates, 2);
    cJSON *o = get_ok("/v1/lora");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "loras")), 2);
    cJSON_Delete(o);
    o = get_ok("/v1/adapters?id=x");
    ck_assert(number_at(o, "version") == 1);
    cJSON_Delete(o);
}
END_TEST

START_TEST(deep_and_large_bodies_are_refused)
{
    static char body[BODY_MAX + 1];
    static const struct refusal deep = { 422, POST_CHAT, "", "nested deeper" };
    static const struct refusal large = { 413, POST_CHAT, "", "200000 bytes" };
    memset(body, '[', sizeof body);
    ck_refusal(&deep, ask("POST", CHAT, JSON, body, BODY_MAX));
    ck_refusal(&large, ask("POST", CHAT, JSON, body, sizeof body));
}
END_TEST

/* A NUL that is spelled in an address does not cut the name off. */
START_TEST(nobody_is_meant_by_half_a_name)
{
    char path[128];
    cJSON *o = post_ok(CHAT, "{" HI "}");
    (void)snprintf(path, sizeof path, "/v1/rollouts/%s%%00x", text_at(o, "id"));
    cJSON_Delete(o);
    ck_assert_int_eq(ask("GET", path, NULL, "", 0), 404);
    ck_assert_int_eq(ask("DELETE", path, NULL, "", 0), 200);
    o = answered();
    ck_assert(cJSON_IsFalse(json_get(o, "deleted")));
    cJSON_Delete(o);
}
END_TEST

START_TEST(a_loss_that_is_no_number_is_no_version)
{
    create("x");
    cJSON_Delete(post_ok(CHAT, "{\"model\":\"x\"," HI "}"));
    toy.spoil = "total_loss";
    toy.spoilt = (double)NAN;
    ck_assert_int_eq(post("/v1/feedback", BATCH(ITEM("x", "v0", ""))), 500);
    ck_assert_ptr_nonnull(strstr(answer_body(), "not a number"));
    cJSON *o = get_ok("/v1/adapters?id=x");
    ck_assert(number_at(o, "version") == 1);
    cJSON_Delete(o);
}
END_TEST

START_TEST(what_is_not_open_is_unavailable)
{
    struct feedback *f = atomic_exchange(&app.feedback, NULL);
    struct jobs *j = atomic_exchange(&app.jobs, NULL);
    struct serving *s = atomic_exchange(&app.serving, NULL);
    ck_assert_int_eq(post(CHAT, "{" HI "}"), 503);
    ck_assert_ptr_nonnull(strstr(buf_str(&heard), "\r\nRetry-After: "));
    ck_assert_int_eq(post("/v1/feedback", BATCH(ITEM("x", "v0", ""))), 503);
    ck_assert_int_eq(post("/v1/lora/init", ID("x")), 503);
    atomic_store(&app.feedback, f);
    atomic_store(&app.jobs, j);
    atomic_store(&app.serving, s);
}
END_TEST

/* ---- damage in the store ---- */

static void damage(const char *key)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/store/%s", house.root, key);
    FILE *file = fopen(path, "w");
    ck_assert_msg(file != NULL, "there is no '%s'", path);
    ck_assert_int_eq(fputs("{", file) == EOF, 0);
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(a_damaged_alias_does_not_hide_the_others)
{
    create("x");
    cJSON_Delete(post_ok("/v1/adapters/aliases", "{\"alias\":\"a\",\"id\":\"x\"}"));
    cJSON_Delete(post_ok("/v1/adapters/aliases", "{\"alias\":\"b\",\"id\":\"x\"}"));
    damage("aliases/a");
    cJSON *o = get_ok("/v1/adapters/aliases");
    const cJSON *list = json_get(o, "aliases");
    ck_assert_int_eq(cJSON_GetArraySize(list), 2);
    ck_assert_ptr_null(json_get(cJSON_GetArrayItem(list, 0), "id"));
    ck_assert_str_eq(text_at(cJSON_GetArrayItem(list, 1), "id"), "x");
    cJSON_Delete(o);
    ck_assert_int_eq(post(CHAT, "{\"model\":\"a\"," HI "}"), 500);
    ck_assert_ptr_nonnull(strstr(answer_body(), "aliases/a"));
}
END_TEST

/* ---- jobs ---- */

static void remark(const char *adapter, const char *text, char *out, size_t cap)
{
    char ask_body[128];
    (void)snprintf(ask_body, sizeof ask_body, "{\"model\":\"%s\"," HI "}", adapter);
    cJSON *o = post_ok(CHAT, ask_body);
    (void)snprintf(out, cap, "{\"requests\":[{\"lora_id\":\"%s\",\"completion_id\":\"%s\",\"feedback\":\"%s\"}]}",
                   adapter, text_at(o, "id"), text);
    cJSON_Delete(o);
}

/* The job behind the last answer, once it is in this state. */
static cJSON *job_when(const char *path, const char *state)
{
    for (int i = 0; i < 500; i++) {
        cJSON *o = get_ok(path);
        if (strcmp(text_at(o, "state"), state) == 0) {
            return o;
        }
        cJSON_Delete(o);
        (void)usleep(20000);
    }
    ck_abort_msg("%s does not become %s: %s", path, state, buf_str(&heard));
    return NULL;
}

static void submit(const char *body, char path[96])
{
    more_headers = "Prefer: respond-async\r\n";
    ck_assert_msg(post("/v1/feedback", body) == 202, "%s", buf_str(&heard));
    more_headers = "";
    ck_assert_ptr_nonnull(strcasestr(buf_str(&heard), "preference-applied: respond-async"));
    cJSON *o = answered();
    (void)snprintf(path, 96, "/v1/jobs/%s", text_at(o, "id"));
    ck_assert_ptr_nonnull(strstr(buf_str(&heard), path));
    cJSON_Delete(o);
}

START_TEST(a_job_is_accepted_and_told_to_its_end)
{
    char body[512];
    char path[96];
    char events[128];
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    submit(body, path);
    cJSON *o = job_when(path, "done");
    ck_assert(number_at(o, "version") == 2);
    ck_assert_str_eq(text_at(json_get(o, "result"), "status"), "ok");
    ck_assert(number_at(json_get(o, "result"), "version") == 2);
    cJSON_Delete(o);
    (void)snprintf(events, sizeof events, "%s/events", path);
    ck_assert_int_eq(ask("GET", events, NULL, "", 0), 200);
    ck_assert(strncmp(answer_body(), "event: end\ndata: {", 18) == 0);
    o = get_ok("/v1/jobs");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "jobs")), 1);
    cJSON_Delete(o);
    ck_assert_int_eq(ask("DELETE", path, NULL, "", 0), 409);
    ck_assert_int_eq(ask("GET", "/v1/jobs/nobody", NULL, "", 0), 404);
    ck_assert_int_eq(ask("GET", "/v1/jobs/nobody/events", NULL, "", 0), 404);
    ck_assert_int_eq(ask("GET", "/v1/jobs//events", NULL, "", 0), 404);
}
END_TEST

static cJSON *deleted(const char *path)
{
    ck_assert_int_eq(ask("DELETE", path, NULL, "", 0), 200);
    return answered();
}

/* 0: there is none. */
static int is_recorded(const char *id)
{
    char path[128];
    (void)snprintf(path, sizeof path, "/v1/rollouts/%s", id);
    return ask("GET", path, NULL, "", 0) == 200;
}

START_TEST(all_of_a_user_can_be_deleted)
{
    char body[512];
    create("x");
    cJSON *ada = post_ok(CHAT, "{\"user\":\"ada l\",\"model\":\"x\"," HI "}");
    cJSON *bob = post_ok(CHAT, "{\"user\":\"bob\",\"model\":\"x\"," HI "}");
    (void)snprintf(body, sizeof body, "{\"requests\":[{\"lora_id\":\"x\",\"completion_id\":\"%s\",\"feedback\":\"be Kuro\"}]}",
                   text_at(ada, "id"));
    cJSON *fed = post_ok("/v1/feedback", body);
    (void)snprintf(body, sizeof body, "/v1/rollouts/%s", text_at(ada, "id"));
    cJSON *o = get_ok(body);
    ck_assert_str_eq(text_at(o, "user"), "ada l");
    cJSON_Delete(o);
    ck_assert_int_eq(ask("DELETE", "/v1/rollouts", NULL, "", 0), 422);
    ck_assert_int_eq(ask("DELETE", "/v1/rollouts?user=", NULL, "", 0), 422);
    cJSON_Delete(deleted("/v1/rollouts?user=ada%20l%00")); /* nobody is meant by half a name */
    ck_assert_int_eq(post(CHAT, "{\"user\":7," HI "}"), 422);
    ck_assert(is_recorded(text_at(ada, "id")));
    o = deleted("/v1/rollouts?user=ada%20l");
    ck_assert(cJSON_IsTrue(json_get(o, "deleted")));
    ck_assert(number_at(o, "rollouts") == 1);
    ck_assert(number_at(o, "feedback_records") == 1);
    const cJSON *version = cJSON_GetArrayItem(json_get(o, "versions_trained"), 0);
    ck_assert_str_eq(text_at(version, "adapter"), "x");
    ck_assert(number_at(version, "version") == 2);
    ck_assert_str_eq(text_at(version, "feedback"), text_at(fed, "request_id"));
    cJSON_Delete(o);
    ck_assert(!is_recorded(text_at(ada, "id")));
    ck_assert(is_recorded(text_at(bob, "id")));
    o = get_ok("/v1/adapters?id=x"); /* what was learnt stays */
    ck_assert(number_at(o, "version") == 2);
    cJSON_Delete(o);
    o = deleted("/v1/rollouts?owner=nobody");
    ck_assert(cJSON_IsFalse(json_get(o, "deleted")));
    cJSON_Delete(o);
    o = deleted("/v1/rollouts?owner="); /* callers without a key */
    ck_assert(number_at(o, "rollouts") == 1);
    cJSON_Delete(o);
    ck_assert(!is_recorded(text_at(bob, "id")));
    cJSON_Delete(ada);
    cJSON_Delete(bob);
    cJSON_Delete(fed);
}
END_TEST

START_TEST(what_a_job_waits_for_can_be_deleted)
{
    char body[512];
    char job[2][96];
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    toy.train_gate = 1;
    submit(body, job[0]);
    toy_wait_at(&toy.at_train_gate, 1);
    ck_assert_int_eq(ask("DELETE", "/v1/rollouts?owner=", NULL, "", 0), 409); /* it is being learnt */
    ck_assert_ptr_nonnull(strstr(answer_body(), strrchr(job[0], '/') + 1));
    remark("x", "be Nemo", body, sizeof body);
    submit(body, job[1]);
    char *id = strstr(body, "completion_id");
    ck_assert_ptr_nonnull(id);
    id = strchr(id, ':') + 2;
    *strchr(id, '"') = '\0';
    char path[160];
    (void)snprintf(path, sizeof path, "/v1/rollouts/%s", id);
    cJSON *o = deleted(path);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "jobs_cancelled")), 1);
    cJSON_Delete(o);
    cJSON_Delete(job_when(job[1], "cancelled"));
    toy_open_gate();
    cJSON_Delete(job_when(job[0], "done"));
}
END_TEST

START_TEST(a_repeat_has_the_answer_of_the_first)
{
    char body[512];
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    more_headers = "Idempotency-Key: one\r\n";
    cJSON *first = post_ok("/v1/feedback", body);
    cJSON *again = post_ok("/v1/feedback", body);
    ck_assert(cJSON_Compare(first, again, 1));
    cJSON_Delete(again);
    cJSON_Delete(first);
    char *other = strstr(body, "Kuro");
    memcpy(other, "Nemo", 4);
    ck_assert_int_eq(post("/v1/feedback", body), 422);
    ck_assert_ptr_nonnull(strstr(answer_body(), "Idempotency-Key"));
    more_headers = "Idempotency-Key: two words\r\n";
    ck_assert_int_eq(post("/v1/feedback", body), 422);
    more_headers = "";
    first = post_ok("/v1/feedback", body);
    again = post_ok("/v1/feedback", body); /* without a key the same twice is two steps */
    ck_assert(number_at(first, "version") == 3);
    ck_assert(number_at(again, "version") == 4);
    cJSON_Delete(again);
    cJSON_Delete(first);
    struct state_audits page;
    ck_ok(state_audit_list(app.state, NULL, NULL, 0, 100, &page, &err), err);
    ck_assert_uint_eq(page.n, 5); /* three steps, two refusals */
    state_audits_clear(&page);
}
END_TEST

START_TEST(the_queue_is_bounded_and_jobs_can_be_cancelled)
{
    char body[512];
    char running[96];
    char waiting[2][96];
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    toy.train_gate = 1;
    submit(body, running);
    toy_wait_at(&toy.at_train_gate, 1);
    submit(body, waiting[0]);
    submit(body, waiting[1]);
    ck_assert_int_eq(post("/v1/feedback", body), 429);
    ck_assert_ptr_nonnull(strcasestr(buf_str(&heard), "retry-after: "));
    ck_assert_int_eq(ask("DELETE", waiting[1], NULL, "", 0), 200);
    cJSON_Delete(job_when(waiting[1], "cancelled"));
    ck_assert_int_eq(post("/v1/feedback", body), 409); /* the adapter is busy; nothing stays of it */
    ck_assert_int_eq(ask("DELETE", running, NULL, "", 0), 200);
    cJSON *o = job_when(running, "cancelled");
    ck_assert_ptr_null(json_get(o, "version"));
    cJSON_Delete(o);
    toy_open_gate();
    o = job_when(waiting[0], "done");
    ck_assert(number_at(o, "version") == 2);
    cJSON_Delete(o);
    o = get_ok("/v1/jobs");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "jobs")), 3);
    cJSON_Delete(o);
}
END_TEST

START_TEST(the_audit_tells_who_made_a_version)
{
    char body[512];
    create("x");
    create("y");
    remark("x", "be Kuro", body, sizeof body);
    cJSON *step = post_ok("/v1/feedback", body);
    ck_assert_int_eq(post("/v1/feedback", "{\"requests\":[{\"lora_id\":\"y\",\"completion_id\":\"none\",\"feedback\":\"f\"}]}"),
                     404);
    cJSON *o = get_ok("/v1/audit");
    const cJSON *refused = cJSON_GetArrayItem(json_get(o, "audit"), 0);
    const cJSON *made = cJSON_GetArrayItem(json_get(o, "audit"), 1);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "audit")), 2);
    ck_assert_str_eq(text_at(refused, "action"), "refused");
    ck_assert_str_eq(text_at(refused, "lora_id"), "y");
    ck_assert_str_eq(text_at(refused, "code"), "not_found");
    ck_assert_ptr_nonnull(strstr(text_at(refused, "reason"), "'none'"));
    ck_assert_str_eq(text_at(made, "action"), "step");
    ck_assert(number_at(made, "version") == 2);
    cJSON *log = get_ok("/v1/adapters/versions?id=x");
    const cJSON *newest = cJSON_GetArrayItem(json_get(log, "versions"), 0);
    ck_assert_str_eq(text_at(newest, "job"), text_at(made, "job"));
    ck_assert_str_eq(text_at(newest, "owner"), "");
    ck_assert_ptr_null(json_get(cJSON_GetArrayItem(json_get(log, "versions"), 1), "owner")); /* made by nobody's feedback */
    cJSON_Delete(log);
    cJSON_Delete(o);
    o = get_ok("/v1/audit?adapter=x&limit=1");
    ck_assert_str_eq(text_at(cJSON_GetArrayItem(json_get(o, "audit"), 0), "action"), "step");
    ck_assert_ptr_null(json_get(o, "next"));
    cJSON_Delete(o);
    o = get_ok("/v1/audit?limit=1");
    char next[64];
    (void)snprintf(next, sizeof next, "/v1/audit?before=%.0f", number_at(o, "next"));
    cJSON_Delete(o);
    o = get_ok(next);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "audit")), 1);
    cJSON_Delete(o);
    ck_assert_int_eq(ask("GET", "/v1/audit?limit=0", NULL, "", 0), 422);
    cJSON_Delete(step);
}
END_TEST

static int post_open(const char *body)
{
    return send_request("POST", "/v1/feedback", "application/json", body, strlen(body));
}

/* The path of the newest job, once there are so many. */
static void newest_job(int n, char path[96])
{
    for (int i = 0; i < 500; i++) {
        cJSON *o = get_ok("/v1/jobs");
        const cJSON *list = json_get(o, "jobs");
        int enough = cJSON_GetArraySize(list) >= n;
        if (enough) {
            (void)snprintf(path, 96, "/v1/jobs/%s", text_at(cJSON_GetArrayItem(list, 0), "id"));
        }
        cJSON_Delete(o);
        if (enough) {
            return;
        }
        (void)usleep(20000);
    }
    ck_abort_msg("there are not %d jobs", n);
}

static int events_open(const char *job)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/events", job);
    return send_request("GET", path, NULL, "", 0);
}

/* A place among those that wait is given back behind the answer: so this is tried again for a while. */
static int post_when_there_is_a_place(const char *body)
{
    int status = 429;
    for (int i = 0; i < 250 && status == 429; i++) {
        status = post("/v1/feedback", body);
        (void)usleep(status == 429 ? 20000 : 0);
    }
    return status;
}

START_TEST(who_finds_no_place_to_wait_is_told_before_anything_is_journalled)
{
    char body[512];
    char running[96];
    char later[96];
    char first[16];
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    toy.train_gate = 1;
    int waits = post_open(body);
    toy_wait_at(&toy.at_train_gate, 1);
    newest_job(1, running);
    int follows = events_open(running);
    ck_assert_int_gt(read(follows, first, 1), 0); /* it has begun */
    ck_assert_int_eq(post("/v1/feedback", body), 429);
    ck_assert_ptr_nonnull(strcasestr(buf_str(&heard), "retry-after: "));
    ck_assert_ptr_nonnull(strstr(answer_body(), "respond-async"));
    ck_assert_int_eq(ask_hear(events_open(running)), 429);
    cJSON *o = get_ok("/v1/jobs");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "jobs")), 1);
    cJSON_Delete(o);
    submit(body, later); /* who does not wait needs no place */
    toy_open_gate();
    ck_assert_int_eq(ask_hear(waits), 200);
    hear(follows);
    ck_assert_ptr_nonnull(strstr(buf_str(&heard), "event: end\n"));
    cJSON_Delete(job_when(later, "done"));
    ck_assert_int_eq(post_when_there_is_a_place(body), 200);
}
END_TEST

START_TEST(who_hangs_up_leaves_his_job_and_his_place)
{
    char body[512];
    char running[96];
    char waiting[96];
    int status = 429;
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    toy.train_gate = 1;
    int one = post_open(body);
    toy_wait_at(&toy.at_train_gate, 1);
    newest_job(1, running);
    int two = post_open(body);
    newest_job(2, waiting);
    ck_assert_int_eq(post("/v1/feedback", body), 429);
    (void)close(one);
    (void)close(two);
    /* A third step waits for its turn and then gives up: before that it needs a place. */
    ck_assert_int_eq(post_when_there_is_a_place(body), 409);
    toy_open_gate();
    cJSON *o = job_when(waiting, "done");
    ck_assert(number_at(o, "version") == 3); /* both steps were made, each once */
    cJSON_Delete(o);
    status = post_when_there_is_a_place(body);
    ck_assert_int_eq(status, 200);
}
END_TEST

START_TEST(a_stream_of_events_shows_life_where_nothing_changes)
{
    char body[512];
    char path[96];
    char piece[4096];
    struct buf all = BUF_INIT;
    int beats = 0;
    create("x");
    remark("x", "be Kuro", body, sizeof body);
    app.heartbeat_ms = 100;
    toy.train_gate = 1;
    submit(body, path);
    toy_wait_at(&toy.at_train_gate, 1);
    int follows = events_open(path);
    for (ssize_t got; (got = read(follows, piece, sizeof piece)) > 0;) {
        buf_add(&all, piece, (size_t)got);
        beats += memmem(piece, (size_t)got, ": still there\n\n", 15) != NULL;
        if (beats == 2) {
            toy_open_gate();
        }
    }
    (void)close(follows);
    app.heartbeat_ms = 0;
    ck_assert_int_ge(beats, 2);
    ck_assert_ptr_nonnull(strstr(buf_str(&all), "\"state\":\"running\""));
    ck_assert_ptr_nonnull(strstr(buf_str(&all), "event: end\n"));
    buf_clear(&all);
}
END_TEST

/* ---- keys ---- */

static void keys_on(void)
{
    char dir[128];
    (void)snprintf(dir, sizeof dir, "%s/state", house.root);
    ck_ok(access_open(dir, app.state, ACCESS_ON, &app.access, &err), err);
}

static void key_make(uint32_t rights, const char *prefix, char header[160], char id[STATE_KEY_ID_CAP])
{
    char token[ACCESS_TOKEN_CAP];
    const struct access_key k = { .name = "test", .prefix = prefix, .rights = rights };
    ck_ok(access_key_make(app.state, &k, id, token, &err), err);
    (void)snprintf(header, 160, "Authorization: Bearer %s\r\n", token);
}

/* Keys must be known before keys_on(): our own connection's writes are not news to it. */
static int ask_as(const char *header, const char *method, const char *path, const char *body)
{
    more_headers = header;
    int status = ask(method, path, body[0] ? "application/json" : NULL, body, strlen(body));
    more_headers = "";
    return status;
}

static int route_needs(const char *right)
{
    return strcmp(right, "chat") == 0       ? ACCESS_CHAT
           : strcmp(right, "feedback") == 0 ? ACCESS_FEEDBACK
           : strcmp(right, "admin") == 0    ? ACCESS_ADMIN
                                            : 0; /* none, loopback; owner: the handler looks */
}

START_TEST(every_route_asks_for_its_right)
{
    static const uint32_t rights[] = { ACCESS_CHAT, ACCESS_FEEDBACK, ACCESS_ADMIN };
    char headers[3][160];
    char id[STATE_KEY_ID_CAP];
    for (size_t k = 0; k < 3; k++) {
        key_make(rights[k], "", headers[k], id);
    }
    keys_on();
    for (size_t i = 0; i < app_n_routes; i++) {
        const struct http_route *r = &app_routes[i];
        char path[128];
        size_t n = strcspn(r->path, "{");
        const char *rest = r->path[n] ? strchr(r->path, '}') + 1 : "";
        (void)snprintf(path, sizeof path, "%.*s%s%s", (int)n, r->path, r->path[n] ? "x" : "", rest);
        const char *body = r->body ? "{}" : "";
        int open = strcmp(r->right, "none") == 0 || strcmp(r->right, "loopback") == 0;
        int status = ask_as("", r->method, path, body);
        ck_assert_msg(open ? status == 200 : status == 401, "%s %s without a key: %d", r->method, path, status);
        ck_assert(open || strcasestr(buf_str(&heard), "www-authenticate: bearer"));
        status = ask_as("Authorization: Bearer sk-dummy\r\n", r->method, path, body);
        ck_assert_msg(open ? status == 200 : status == 401, "%s %s with a wrong key: %d", r->method, path, status);
        for (size_t k = 0; k < 3; k++) {
            uint32_t needs = (uint32_t)route_needs(r->right);
            int may = !needs || (rights[k] & (needs | ACCESS_ADMIN)) != 0;
            status = ask_as(headers[k], r->method, path, body);
            ck_assert_msg(may ? status != 401 && status != 403 : status == 403, "%s %s with right %u: %d", r->method, path,
                          rights[k], status);
        }
    }
}
END_TEST

START_TEST(what_is_others_is_not_there)
{
    char ann[160];
    char ben[160];
    char id[STATE_KEY_ID_CAP];
    char ben_id[STATE_KEY_ID_CAP];
    char admin[160];
    char path[160];
    char body[512];
    key_make(ACCESS_CHAT | ACCESS_FEEDBACK, "ann", ann, id);
    key_make(ACCESS_CHAT | ACCESS_FEEDBACK, "ben/", ben, ben_id);
    key_make(ACCESS_ADMIN, "", admin, ben_id);
    keys_on();
    ck_assert_int_eq(ask_as(ann, "POST", "/v1/lora/init", "{\"lora_id\":\"ann/x\"}"), 200);
    ck_assert_int_eq(ask_as(ann, "POST", "/v1/lora/init", "{\"lora_id\":\"ben/x\"}"), 403);
    ck_assert_ptr_nonnull(strstr(answer_body(), "ann/"));
    ck_assert_int_eq(ask_as(ann, "POST", CHAT, "{\"model\":\"ann/x\"," HI "}"), 200);
    cJSON *o = answered();
    (void)snprintf(path, sizeof path, "/v1/rollouts/%s", text_at(o, "id"));
    (void)snprintf(body, sizeof body, "{\"requests\":[{\"lora_id\":\"ann/x\",\"completion_id\":\"%s\",\"prompt\":\"Hi\","
                                      "\"response\":\"%s\",\"feedback\":\"f\"}]}",
                   text_at(o, "id"), text_at(json_get(choice_of(o), "message"), "content"));
    cJSON_Delete(o);
    static const struct { const char *method, *path, *body; } rows[] = {
        { "POST", CHAT, "{\"model\":\"ann/x\"," HI "}" },
        { "POST", CHAT, "{\"model\":\"ann/x@1\"," HI "}" },
        { "POST", "/v1/score", "{\"model\":\"ann/x\"," HI ",\"completion\":\"v0\"}" },
        { "GET", "/v1/adapters?id=ann/x", "" },
        { "GET", "/v1/adapters/versions?id=ann/x", "" },
        { "GET", "/v1/lora/export?lora_id=ann/x", "" },
        { "POST", "/v1/adapters/rollback", "{\"id\":\"ann/x\",\"version\":1}" },
        { "POST", "/v1/adapters/aliases", "{\"alias\":\"ben/al\",\"id\":\"ann/x\"}" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int others = ask_as(ben, rows[i].method, rows[i].path, rows[i].body);
        ck_assert_msg(others == 404, "%s %s: %d %s", rows[i].method, rows[i].path, others, buf_str(&heard));
    }
    ck_assert_int_eq(ask_as(ben, "GET", path, ""), 404);
    ck_assert_int_eq(ask_as(ann, "GET", path, ""), 200);
    ck_assert_int_eq(ask_as(admin, "GET", path, ""), 200);
    ck_assert_int_eq(ask_as(ben, "POST", "/v1/feedback", body), 404);
    ck_assert_int_eq(ask_as(ben, "DELETE", path, ""), 200); /* nothing was there for him */
    ck_assert_int_eq(ask_as(ben, "DELETE", "/v1/lora?lora_id=ann/x", ""), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), "false"));
    ck_assert_int_eq(ask_as(ann, "GET", path, ""), 200);
    static const char *const lists[] = { "/v1/rollouts", "/v1/lora", "/v1/models" };
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(ask_as(ben, "GET", lists[i], ""), 200);
        ck_assert_msg(!strstr(answer_body(), "ann/x"), "%s: %s", lists[i], answer_body());
        ck_assert_int_eq(ask_as(ann, "GET", lists[i], ""), 200);
        ck_assert_msg(strstr(answer_body(), "ann/x") != NULL, "%s: %s", lists[i], answer_body());
    }
    ck_assert_msg(ask_as(ann, "POST", "/v1/feedback", body) == 200, "%s", buf_str(&heard));
    ck_assert_int_eq(ask_as(ann, "GET", "/v1/jobs", ""), 200);
    o = answered();
    (void)snprintf(path, sizeof path, "/v1/jobs/%s", text_at(cJSON_GetArrayItem(json_get(o, "jobs"), 0), "id"));
    cJSON_Delete(o);
    ck_assert_int_eq(ask_as(ben, "GET", path, ""), 404);
    ck_assert_int_eq(ask_as(ben, "DELETE", path, ""), 404);
    ck_assert_int_eq(ask_as(admin, "GET", path, ""), 200);
    ck_assert_int_eq(ask_as(ben, "GET", "/v1/jobs", ""), 200);
    ck_assert_ptr_null(strstr(answer_body(), "ann/x"));
    ck_assert_int_eq(ask_as(ann, "GET", "/v1/adapters/versions?id=ann/x", ""), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), id)); /* whose feedback it was */
}
END_TEST

START_TEST(keys_delete_their_own_only)
{
    char ann[160];
    char ben[160];
    char admin[160];
    char id[STATE_KEY_ID_CAP];
    char other[STATE_KEY_ID_CAP];
    char path[160];
    key_make(ACCESS_CHAT, "", ben, id);
    key_make(ACCESS_ADMIN, "", admin, other);
    key_make(ACCESS_CHAT, "", ann, id);
    keys_on();
    (void)snprintf(path, sizeof path, "/v1/rollouts?owner=%s", id);
    ck_assert_int_eq(ask_as(ann, "POST", CHAT, "{\"user\":\"ada\"," HI "}"), 200);
    ck_assert_int_eq(ask_as(ann, "POST", CHAT, "{\"user\":\"bob\"," HI "}"), 200);
    ck_assert_int_eq(ask_as(ben, "DELETE", path, ""), 403);
    ck_assert_int_eq(ask_as("", "DELETE", path, ""), 401);
    ck_assert_int_eq(ask_as(ben, "DELETE", "/v1/rollouts?user=ada", ""), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), "\"rollouts\":0")); /* that user of this key is nobody */
    ck_assert_int_eq(ask_as(ann, "DELETE", "/v1/rollouts?user=ada", ""), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), "\"rollouts\":1"));
    ck_assert_int_eq(ask_as(admin, "DELETE", path, ""), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), "\"rollouts\":1"));
    ck_assert_int_eq(ask_as(ann, "DELETE", path, ""), 200);
    ck_assert_ptr_nonnull(strstr(answer_body(), "\"rollouts\":0"));
}
END_TEST

/* Feedback under the Idempotency-Key "one" on an answer of its own; the path of the job. */
static void step_as(const char *header, const char *adapter, char path[96])
{
    char body[256];
    char both[256];
    (void)snprintf(body, sizeof body, "{\"lora_id\":\"%s\"}", adapter);
    ck_assert_int_eq(ask_as(header, "POST", "/v1/lora/init", body), 200);
    (void)snprintf(body, sizeof body, "{\"model\":\"%s\"," HI "}", adapter);
    ck_assert_int_eq(ask_as(header, "POST", CHAT, body), 200);
    cJSON *o = answered();
    (void)snprintf(body, sizeof body,
                   "{\"requests\":[{\"lora_id\":\"%s\",\"completion_id\":\"%s\",\"feedback\":\"f\"}]}", adapter,
                   text_at(o, "id"));
    cJSON_Delete(o);
    (void)snprintf(both, sizeof both, "%sIdempotency-Key: one\r\n", header);
    ck_assert_msg(ask_as(both, "POST", "/v1/feedback", body) == 200, "%s", buf_str(&heard));
    ck_assert_int_eq(ask_as(header, "GET", "/v1/jobs", ""), 200);
    o = answered();
    ck_assert_int_eq(cJSON_GetArraySize(json_get(o, "jobs")), 1);
    (void)snprintf(path, 96, "/v1/jobs/%s", text_at(cJSON_GetArrayItem(json_get(o, "jobs"), 0), "id"));
    cJSON_Delete(o);
}

START_TEST(jobs_repeats_and_audit_know_whose_they_are)
{
    char ann[160];
    char ben[160];
    char admin[160];
    char ann_id[STATE_KEY_ID_CAP];
    char ben_id[STATE_KEY_ID_CAP];
    char id[STATE_KEY_ID_CAP];
    char anns[96];
    char bens[96];
    char events[128];
    key_make(ACCESS_CHAT | ACCESS_FEEDBACK, "ann", ann, ann_id);
    key_make(ACCESS_CHAT | ACCESS_FEEDBACK, "ben", ben, ben_id);
    key_make(ACCESS_ADMIN, "", admin, id);
    keys_on();
    step_as(ann, "ann/x", anns);
    step_as(ben, "ben/x", bens); /* the same key of somebody else is no repeat */
    ck_assert_str_ne(anns, bens);
    (void)snprintf(events, sizeof events, "%s/events", anns);
    ck_assert_int_eq(ask_as(ben, "GET", events, ""), 404);
    ck_assert_int_eq(ask_as(admin, "GET", events, ""), 200);
    ck_assert_int_eq(ask_as(ben, "POST", "/v1/feedback",
                            "{\"requests\":[{\"lora_id\":\"ann/x\",\"completion_id\":\"c\",\"feedback\":\"f\"}]}"),
                     404);
    ck_assert_int_eq(ask_as(admin, "GET", "/v1/audit", ""), 200);
    cJSON *o = answered();
    const cJSON *rows = json_get(o, "audit");
    ck_assert_int_eq(cJSON_GetArraySize(rows), 3);
    ck_assert_str_eq(text_at(cJSON_GetArrayItem(rows, 0), "action"), "refused");
    ck_assert_str_eq(text_at(cJSON_GetArrayItem(rows, 0), "owner"), ben_id);
    ck_assert_str_eq(text_at(cJSON_GetArrayItem(rows, 1), "owner"), ben_id);
    ck_assert_str_eq(text_at(cJSON_GetArrayItem(rows, 2), "owner"), ann_id);
    cJSON_Delete(o);
    ck_assert_int_eq(ask_as(ann, "GET", "/v1/audit", ""), 403);
}
END_TEST

START_TEST(a_quota_ends_requests)
{
    char header[160];
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    const struct access_key k = { .name = "test", .prefix = "", .rights = ACCESS_CHAT, .bytes_a_day = 100 };
    ck_ok(access_key_make(app.state, &k, id, token, &err), err);
    keys_on();
    (void)snprintf(header, sizeof header, "X-API-Key: %s\r\n", token);
    ck_assert_int_eq(ask_as(header, "POST", CHAT, "{" HI "}"), 200);
    for (int i = 0, status = 200; status != 429; i++) { /* counted when the request has been cleaned up */
        status = ask_as(header, "POST", CHAT, "{" HI "}");
        ck_assert_msg(i < 100 && (status == 200 || status == 429), "%d", status);
    }
    ck_assert_ptr_nonnull(strcasestr(buf_str(&heard), "retry-after: "));
    ck_assert_ptr_nonnull(strstr(answer_body(), "100 bytes a day"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("server");
    TCase *t = tcase_create("http");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_chat_is_answered);
    tcase_add_test(t, a_text_is_continued);
    tcase_add_loop_test(t, content_of_any_kind_becomes_text, 0, 5);
    tcase_add_loop_test(t, what_was_said_of_a_cut_answer_is_recorded, 0, 2);
    tcase_add_loop_test(t, an_answer_whose_client_leaves_is_recorded, 0, 2);
    tcase_add_test(t, settings_nobody_knows_are_named);
    tcase_add_test(t, adapters_take_turns);
    tcase_add_test(t, tools_are_ignored_and_named);
    tcase_add_test(t, calls_of_tools_are_left_out_and_named);
    tcase_add_test(t, uploads_that_are_left_do_not_stay);
    tcase_add_test(t, a_half_closed_client_is_answered_and_let_go);
    tcase_add_loop_test(t, a_stream_has_its_frame, 0, 2);
    tcase_add_test(t, a_text_has_its_logprobs);
    tcase_add_loop_test(t, pieces_carry_their_logprobs, 0, 3);
    tcase_add_test(t, the_daemon_tells_of_itself);
    tcase_add_test(t, metrics_count);
    tcase_add_test(t, metrics_have_their_form);
    tcase_add_test(t, existing_clients_learn);
    tcase_add_loop_test(t, bad_requests_are_refused_and_change_nothing, 0,
                        sizeof refusals / sizeof refusals[0]);
    tcase_add_test(t, deep_and_large_bodies_are_refused);
    tcase_add_test(t, nobody_is_meant_by_half_a_name);
    tcase_add_test(t, all_of_a_user_can_be_deleted);
    tcase_add_test(t, what_a_job_waits_for_can_be_deleted);
    tcase_add_test(t, a_loss_that_is_no_number_is_no_version);
    tcase_add_test(t, what_is_not_open_is_unavailable);
    tcase_add_test(t, a_job_is_accepted_and_told_to_its_end);
    tcase_add_test(t, a_repeat_has_the_answer_of_the_first);
    tcase_add_test(t, the_audit_tells_who_made_a_version);
    tcase_add_test(t, who_finds_no_place_to_wait_is_told_before_anything_is_journalled);
    tcase_add_test(t, who_hangs_up_leaves_his_job_and_his_place);
    tcase_add_test(t, a_stream_of_events_shows_life_where_nothing_changes);
    tcase_add_test(t, the_queue_is_bounded_and_jobs_can_be_cancelled);
    tcase_add_test(t, a_damaged_alias_does_not_hide_the_others);
    tcase_add_test(t, every_route_asks_for_its_right);
    tcase_add_test(t, what_is_others_is_not_there);
    tcase_add_test(t, keys_delete_their_own_only);
    tcase_add_test(t, jobs_repeats_and_audit_know_whose_they_are);
    tcase_add_test(t, a_quota_ends_requests);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
