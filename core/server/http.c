/* SPDX-License-Identifier: MIT */
/* The exchange with libmicrohttpd: one epoll thread that receives and sends; requests whose handler may wait are
 * suspended, worked on by a lane of the pool, and resumed with their answer. */
#include "config.h"

#include "server/http_private.h"
#include "server/listen.h"
#include "server/tls.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---- requests ------------------------------------------------------------------------------------------------------------ */

/* The handler is done with it. */
static void request_release(struct http_request *r)
{
    if (r->waits) {
        (void)atomic_fetch_sub(&r->http->n_waiters, 1);
    }
    request_unref(r);
}

static int id_is_sane(const char *id)
{
    size_t n = id ? strlen(id) : 0;
    return n > 0 && n <= HTTP_ID_MAX &&
           strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static struct http_request *request_new(struct http *h, struct MHD_Connection *connection)
{
    struct http_request *r = calloc(1, sizeof *r);
    if (!r) {
        return NULL;
    }
    r->http = h;
    r->connection = connection;
    r->begun_ns = clock_mono_ns();
    (void)pthread_mutex_init(&r->lock, NULL);
    atomic_init(&r->refs, 1);
    host_call_init(&r->call, 0, NULL, NULL);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    r->fd = info ? info->connect_fd : -1;
    const char *id = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "X-Request-Id");
    if (id_is_sane(id)) {
        (void)snprintf(r->id, sizeof r->id, "%s", id);
    } else if (rng_hex(r->id, 32)) {
        request_unref(r);
        return NULL;
    }
    struct trace parent;
    const char *told = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "traceparent");
    if (told && trace_parse(told, &parent) == 0 && trace_child(&parent, &r->trace)) {
        request_unref(r);
        return NULL;
    }
    if (r->trace.id[0]) {
        trace_print(&r->trace, r->traceparent);
    }
    r->taken = h->o.begin ? h->o.begin(h->o.app) : NULL;
    r->call.request_id = r->id;
    r->call.traceparent = r->traceparent;
    (void)pthread_mutex_lock(&h->lock);
    r->next = h->requests;
    if (r->next) {
        r->next->prev = r;
    }
    h->requests = r;
    h->n_requests++;
    (void)pthread_mutex_unlock(&h->lock);
    return r;
}

/* The route as it stands in the table: a path may hold somebody's id. */
static void request_log(const struct http_request *r, int status)
{
    const struct log_context own = { r->id, r->trace.id[0] ? r->trace.id : NULL };
    const struct log_context before = log_context_set(own);
    log_line(LOG_DEBUG, "http", "%s %s %d, %lld us%s%s", r->route ? r->route->method : "no", r->route ? r->route->path : "route",
             status, (long long)((clock_mono_ns() - r->begun_ns) / 1000), r->traceparent[0] ? ", span " : "", r->trace.span);
    (void)log_context_set(before);
}

/* [libmicrohttpd's thread] The exchange is over, however it ended. */
static void request_completed(void *ctx, struct MHD_Connection *connection, void **state,
                              enum MHD_RequestTerminationCode why)
{
    struct http *h = ctx;
    struct http_request *r = *state;
    (void)connection;
    *state = NULL;
    if (!r) {
        return;
    }
    (void)pthread_mutex_lock(&r->lock);
    r->gone = 1;
    r->suspended = 0;
    int cut = r->state != HTTP_ANSWERED || (r->streams && why != MHD_REQUEST_TERMINATED_COMPLETED_OK);
    (void)pthread_mutex_unlock(&r->lock);
    (void)pthread_mutex_lock(&h->lock);
    if (r->prev) {
        r->prev->next = r->next;
    } else {
        h->requests = r->next;
    }
    if (r->next) {
        r->next->prev = r->prev;
    }
    if (--h->n_requests == 0) {
        (void)pthread_cond_broadcast(&h->left);
    }
    (void)pthread_mutex_unlock(&h->lock);
    if (log_enabled(LOG_DEBUG)) {
        request_log(r, cut ? 499 : r->status);
    }
    if (h->o.answered) {
        h->o.answered(h->o.app, r->route ? (size_t)(r->route - h->o.routes) : h->o.n_routes, cut ? 499 : r->status,
                      clock_mono_ns() - r->begun_ns);
    }
    if (h->o.moved) {
        h->o.moved(h->o.app, &r->caller, r->received_bytes + r->sent_bytes);
    }
    if (r->response) {
        MHD_destroy_response(r->response); /* a stream's gives its reference to r back */
    }
    request_unref(r);
}

void request_answered(struct http_request *r)
{
    (void)pthread_mutex_lock(&r->lock);
    r->state = HTTP_ANSWERED;
    if (r->suspended) {
        r->suspended = 0;
        MHD_resume_connection(r->connection);
    }
    (void)pthread_mutex_unlock(&r->lock);
}

/* ---- routes ---------------------------------------------------------------------------------------------------------------- */

/* 1 if path is that of the route; *id: where the segment for {id} begins, or null. */
static int route_has_path(const struct http_route *route, const char *path, const char **id)
{
    const char *brace = strchr(route->path, '{');
    *id = NULL;
    if (!brace) {
        return strcmp(route->path, path) == 0;
    }
    size_t n = (size_t)(brace - route->path);
    if (strncmp(route->path, path, n) != 0 || path[n] == '\0' || path[n] == '/' ||
        strcmp(path + n + strcspn(path + n, "/"), brace + strlen("{id}")) != 0) {
        return 0;
    }
    *id = path + n;
    return 1;
}

/* Finds the row, or refuses with 404 or 405 and what would be allowed. */
static int request_route(struct http_request *r, const char *method, const char *path)
{
    const struct http *h = r->http;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    char allow[64] = "";
    const char *id = NULL;
    for (size_t i = 0; i < h->o.n_routes; i++) {
        const struct http_route *route = &h->o.routes[i];
        if (!route_has_path(route, path, &id)) {
            continue;
        }
        if (strcmp(route->method, wanted) == 0) {
            r->route = route;
            r->path_id = id ? strndup(id, strcspn(id, "/")) : NULL;
            return id && !r->path_id ? -1 : 0;
        }
        size_t n = strlen(allow);
        (void)snprintf(allow + n, sizeof allow - n, "%s%s%s", n ? ", " : "", route->method,
                       strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
    }
    if (allow[0]) {
        http_header(r, MHD_HTTP_HEADER_ALLOW, allow);
        request_refuse(r, 405, "method_not_allowed", "the method is not allowed here", "method");
    } else {
        request_refuse(r, 404, "not_found", "there is no such route", "path");
    }
    return 0;
}

/* ---- receiving and handing over -------------------------------------------------------------------------------------------- */

/* Content-Length; 0 when absent (libmicrohttpd has refused malformed ones). */
static uint64_t request_length(const struct http_request *r)
{
    const char *text = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return text ? strtoull(text, NULL, 10) : 0;
}

static void request_too_large(struct http_request *r)
{
    char message[96];
    (void)snprintf(message, sizeof message, "the body is larger than the limit of %zu bytes", r->http->o.body_bytes);
    request_refuse(r, 413, "too_large", message, "body");
}

/* Refuses who may not. */
static void request_admit(struct http_request *r)
{
    const struct http *h = r->http;
    struct claas_error err = ERR_INIT;
    if (h->o.admit && h->o.admit(h->o.app, r, r->route, &r->caller, &err)) {
        http_fail(r, &err);
    }
}

/* Sees the header. What is refused here is refused before its body was sent, if the client waits for our word or the
 * body is enormous; else the body is received and dropped, since closing on unread data would lose the answer. */
static enum MHD_Result request_begin(struct http_request *r, const char *method, const char *path)
{
    if (request_route(r, method, path)) {
        return MHD_NO;
    }
    uint64_t length = request_length(r);
    if (r->state != HTTP_ANSWERED) {
        request_admit(r);
    }
    if (r->state != HTTP_ANSWERED && length > r->http->o.body_bytes) {
        request_too_large(r);
    }
    int waits = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT) != NULL;
    if (r->state == HTTP_ANSWERED && (waits || length / 4 > r->http->o.body_bytes)) {
        return r->response ? MHD_queue_response(r->connection, (unsigned)r->status, r->response) : MHD_NO;
    }
    return MHD_YES;
}

/* 1: the client has gone, or has said that nothing more will come, and nothing is left to read. libmicrohttpd reads on
 * only at news, and an end that came together with the last bytes was no news of its own: it would wait until the
 * connection has been silent for too long. */
static int request_is_over(const struct http_request *r)
{
    struct pollfd p = { .fd = r->fd, .events = POLLRDHUP };
    int unread = 0;
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) &&
           (ioctl(r->fd, FIONREAD, &unread) || unread == 0);
}

static enum MHD_Result request_receive(struct http_request *r, const char *data, size_t *n)
{
    const struct http *h = r->http;
    size_t most = h->o.body_bytes;
    if (clock_mono_ns() - r->begun_ns > (int64_t)h->o.idle_ms * 4 * 1000000) {
        return MHD_NO; /* one byte now and then: cut off */
    }
    r->received_bytes += *n;
    if (r->received_bytes < request_length(r) && request_is_over(r)) {
        return MHD_NO; /* the rest of the body will never come */
    }
    if (r->state != HTTP_ANSWERED && !r->too_large && r->route->body) {
        if (*n > most - r->received.len) {
            r->too_large = 1;
            buf_clear(&r->received);
        } else {
            buf_add(&r->received, data, *n);
        }
    }
    *n = 0;
    return MHD_YES;
}

/* Its lines of the log tell the request. */
static void request_handle(struct http_request *r)
{
    const struct log_context own = { r->id, r->trace.id[0] ? r->trace.id : NULL };
    const struct log_context before = log_context_set(own);
    if (r->then) {
        r->then(r->http->o.app, r);
    } else if (request_parse(r) == 0) {
        r->route->handle(r->http->o.app, r);
    }
    (void)log_context_set(before);
}

/* [worker] What cannot go to the threads that sleep, such as at the end, does so on this one. */
static void request_work(void *item)
{
    struct http_request *r = item;
    struct claas_error ignored = ERR_INIT;
    int first = !r->then;
    request_handle(r);
    if (first && r->then) {
        if (pool_add(r->http->pool, HTTP_WAIT, r, &ignored) == 0) {
            return; /* another thread has it by now */
        }
        request_handle(r);
    }
    request_release(r);
}

/* [any thread] Waited in a lane when the daemon stopped. */
static void request_drop(void *item)
{
    struct http_request *r = item;
    struct claas_error err = ERR_INIT;
    (void)err_set(&err, CLAAS_ERR_UNAVAILABLE, "", "the daemon is stopping");
    http_fail(r, &err);
    request_release(r);
}

/* All is there: answers inline, or hands it to its lane. */
static void request_dispatch(struct http_request *r)
{
    if (r->too_large) {
        request_too_large(r);
        return;
    }
    if (r->route->lane == HTTP_INLINE) {
        request_handle(r);
        return;
    }
    struct claas_error err = ERR_INIT;
    (void)pthread_mutex_lock(&r->lock);
    r->state = HTTP_WORKING;
    r->suspended = 1;
    MHD_suspend_connection(r->connection);
    (void)pthread_mutex_unlock(&r->lock);
    (void)atomic_fetch_add(&r->refs, 1);
    if (pool_add(r->http->pool, r->route->lane, r, &err)) {
        http_fail(r, &err);
        request_unref(r);
    }
}

/* [libmicrohttpd's thread] Called with the header, with each piece of the body, when all is there, and after resuming. */
static enum MHD_Result request_access(void *ctx, struct MHD_Connection *connection, const char *path,
                                      const char *method, const char *version, const char *data, size_t *n,
                                      void **state)
{
    struct http *h = ctx;
    struct http_request *r = *state;
    (void)version;
    if (!r) {
        r = request_new(h, connection);
        *state = r;
        return r ? request_begin(r, method, path) : MHD_NO;
    }
    if (*n > 0) {
        return request_receive(r, data, n);
    }
    (void)pthread_mutex_lock(&r->lock);
    enum http_state is = r->state;
    (void)pthread_mutex_unlock(&r->lock);
    if (is == HTTP_RECEIVING) {
        request_dispatch(r);
        if (r->route->lane != HTTP_INLINE && !r->too_large) {
            return MHD_YES; /* suspended: the worker may have it by now */
        }
        is = HTTP_ANSWERED;
    }
    if (is == HTTP_WORKING) {
        return MHD_YES;
    }
    return r->response ? MHD_queue_response(connection, (unsigned)r->status, r->response) : MHD_NO;
}

/* No text here can hold a NUL: what spells one stays as it is written, so that it is nobody's name, instead of being cut
 * off there and meaning somebody else. */
static size_t http_unescape(void *ctx, struct MHD_Connection *connection, char *text)
{
    (void)ctx;
    (void)connection;
    return strstr(text, "%00") ? strlen(text) : MHD_http_unescape(text);
}

/* ---- the daemon -------------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 0))) static void http_log(void *ctx, const char *fmt, va_list args)
{
    char line[512];
    (void)ctx;
    (void)vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\n")] = '\0';
    log_line(LOG_DEBUG, "http", "%s", line);
}

static int http_listen(const struct http_options *o, int *out_fd, struct claas_error *err)
{
    if (o->listener) {
        *out_fd = *o->listener;
        return 0;
    }
    return o->path ? listen_unix(o->path, o->path_mode, out_fd, err) : listen_tcp(o->host, o->port, out_fd, err);
}

static int http_daemon(struct http *h, struct claas_error *err)
{
    int fd = -1;
    int rc = http_listen(&h->o, &fd, err);
    if (rc) {
        return rc;
    }
    h->port = listen_port(fd);
    unsigned seconds = (h->o.idle_ms + 999) / 1000;
    struct MHD_OptionItem tls[] = {
        { MHD_OPTION_HTTPS_PRIORITIES, 0, (char *)"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2" },
        { MHD_OPTION_HTTPS_CERT_CALLBACK, 0, tls_callback() },
        { MHD_OPTION_END, 0, NULL },
    };
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG |
            (h->o.tls ? MHD_USE_TLS : 0),
        0, NULL, NULL, request_access, h, MHD_OPTION_EXTERNAL_LOGGER, http_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_COMPLETED, request_completed, h, MHD_OPTION_CONNECTION_LIMIT, h->o.connections,
        MHD_OPTION_CONNECTION_TIMEOUT, seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(32 * 1024),
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, h->o.connections_per_address,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_UNESCAPE_CALLBACK, http_unescape, NULL, MHD_OPTION_ARRAY,
        h->o.tls ? tls : tls + 2, MHD_OPTION_END);
    if (!h->daemon) {
        (void)close(fd); /* nothing was written to it */
        return err_set(err, CLAAS_ERR_INTERNAL, "listen", "cannot start the HTTP server on '%s'",
                       h->o.path ? h->o.path : h->o.host);
    }
    return 0;
}

int http_start(const struct http_options *options, struct http **out, struct claas_error *err)
{
    const uint32_t waiters = options->waiters ? options->waiters : 128;
    const struct pool_lane lanes[HTTP_LANES] = {
        [HTTP_QUICK] = { "http-quick", 4, 1024 },
        [HTTP_ANSWER] = { "http-answer", 32, 1024 },
        [HTTP_TRAIN] = { "http-train", 8, 128 },
        [HTTP_SUBMIT] = { "http-submit", 8, 1024 },
        [HTTP_WAIT] = { "http-wait", waiters, waiters }, /* a thread for each who has a place: nobody waits for one */
    };
    struct claas_error own = ERR_INIT;
    struct http *h = calloc(1, sizeof *h);
    if (!h) {
        return err_oom(err, "the HTTP server");
    }
    h->o = *options;
    h->o.waiters = waiters;
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_cond_init(&h->left, &attr);
    (void)pthread_condattr_destroy(&attr);
    int rc = pool_new(lanes, HTTP_LANES, request_work, &h->pool, &own);
    if (rc == 0) {
        rc = http_daemon(h, &own);
    }
    if (rc) {
        http_stop(h, 0);
        return err_set(err, own.code, own.what, "%s", own.message);
    }
    *out = h;
    return 0;
}

uint16_t http_port(const struct http *h)
{
    return h->port;
}

void http_load(struct http *h, struct http_load *out)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    out->connections = info ? info->num_connections : 0;
    pool_load(h->pool, &out->running, &out->waiting);
}

static void http_cancel(struct http *h)
{
    (void)pthread_mutex_lock(&h->lock);
    for (struct http_request *r = h->requests; r; r = r->next) {
        host_call_cancel(&r->call);
    }
    (void)pthread_mutex_unlock(&h->lock);
}

/* What was answered is sent before the sockets are closed; clients that do not read get two seconds. */
static void http_flush(struct http *h)
{
    int64_t until = clock_mono_ns() + 2000000000LL;
    struct timespec at = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
    int late = 0;
    (void)pthread_mutex_lock(&h->lock);
    while (h->n_requests > 0 && !late) {
        late = pthread_cond_timedwait(&h->left, &h->lock, &at) != 0;
    }
    (void)pthread_mutex_unlock(&h->lock);
}

/* What a client would see of us: a pair of sockets of which the daemon gets one end. */
int http_alive(struct http *h, uint32_t ms)
{
    static const char question[] = "GET /health HTTP/1.0\r\n\r\n";
    struct sockaddr_un nobody = { .sun_family = AF_UNIX };
    char answer[64];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
        return 1; /* no descriptor is left: that is load, not death */
    }
    /* On failure it has closed the end itself. */
    int alive = MHD_add_connection(h->daemon, pair[0], (struct sockaddr *)&nobody, sizeof nobody) != MHD_YES;
    if (!alive) {
        struct pollfd p = { .fd = pair[1], .events = POLLIN };
        alive = send(pair[1], question, sizeof question - 1, MSG_NOSIGNAL) == (ssize_t)sizeof question - 1 &&
                poll(&p, 1, (int)ms) == 1 && recv(pair[1], answer, sizeof answer, 0) > 0;
    }
    (void)close(pair[1]); /* nothing can be lost */
    return alive;
}

void http_quiesce(struct http *h)
{
    if (!h->daemon || atomic_exchange(&h->stopping, 1)) {
        return;
    }
    MHD_socket fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET) {
        (void)close(fd); /* nothing was written to it */
    }
    pool_stop(h->pool, request_drop);
}

int http_idle(struct http *h, uint32_t ms)
{
    return pool_wait(h->pool, ms);
}

void http_stop(struct http *h, uint32_t grace_ms)
{
    if (!h) {
        return;
    }
    http_quiesce(h);
    if (h->daemon) {
        if (!pool_wait(h->pool, grace_ms)) {
            http_cancel(h);
            while (!pool_wait(h->pool, 1000)) {
                http_cancel(h); /* also those whose call began after the last look */
            }
        }
        http_flush(h);
        MHD_stop_daemon(h->daemon);
        if (h->o.path && !h->o.listener) {
            (void)unlink(h->o.path); /* at worst it stays: the next start replaces it */
        }
    }
    pool_free(h->pool);
    (void)pthread_cond_destroy(&h->left);
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
}
