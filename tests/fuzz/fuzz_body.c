/* SPDX-License-Identifier: MIT */
/* Bodies of requests, over the real HTTP layer and its table of routes: the first line of an input is the path, the rest
 * the body. No room is open, so that what passes all checks is answered 503. */
#include "config.h"

#include "fuzz.h"

#include "base/buf.h"
#include "base/file.h"
#include "server/app.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

static struct config config;
static struct app app;

static void stop(void)
{
    http_stop(app.http, 1000);
}

static void start(void)
{
    struct claas_error err = ERR_INIT;
    config.engine.plugin = config.storage.plugin = config.inference.plugin = "";
    config.limits.batch_items = 3;
    app.config = &config;
    metrics_init(&app.metrics);
    const struct http_options options = { .host = "127.0.0.1", .connections = 4, .idle_ms = 10000, .body_bytes = 100000,
                                          .routes = app_routes, .n_routes = app_n_routes, .app = &app };
    FUZZ_TRUE(http_start(&options, &app.http, &err) == 0 && atexit(stop) == 0);
}

/* The status and, in *out, the whole answer. 1.0, so that its end is the end of the connection. */
static int post(const char *path, size_t path_n, const char *body, size_t n, struct buf *out)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons(http_port(app.http)) };
    struct claas_error err = ERR_INIT;
    struct buf head = BUF_INIT;
    int status = 0;
    char *room;
    ssize_t got = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    FUZZ_TRUE(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    buf_addf(&head, "POST %.*s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", (int)path_n,
             path, n);
    buf_add(&head, body, n);
    FUZZ_TRUE(fd_write_all(fd, head.data, head.len, "a socket", &err) == 0);
    do {
        room = buf_room(out, 4096);
        got = room ? read(fd, room, 4096) : -1;
        out->len += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    FUZZ_TRUE(got == 0 && !out->failed && buf_room(out, 1) != NULL);
    out->data[out->len] = '\0';
    FUZZ_TRUE(sscanf(out->data, "HTTP/1.%*d %d", &status) == 1);
    buf_clear(&head);
    (void)close(fd);
    return status;
}

/* A path that can stand in a request line. */
static size_t path_of(const char *s, size_t n)
{
    size_t m = 0;
    while (m < n && m < 200 && s[m] > ' ' && s[m] < 0x7F) {
        m++;
    }
    return m > 0 && s[0] == '/' ? m : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *s = (const char *)data;
    const char *end = memchr(s, '\n', n);
    size_t line = end ? (size_t)(end - s) : n;
    size_t path = path_of(s, line);
    struct buf out = BUF_INIT;
    if (!app.http) {
        start();
    }
    if (path == 0 || path != line || n - line > 60000) {
        return 0; /* nothing new below HTTP */
    }
    int status = post(s, path, s + line + (end ? 1 : 0), n - line - (end ? 1 : 0), &out);
    FUZZ_TRUE(status == 503 || (status >= 400 && status < 500) || status == 501);
    FUZZ_TRUE(strstr(out.data, "\"detail\"") != NULL && strstr(out.data, "\"message\"") != NULL);
    buf_clear(&out);
    return 0;
}
