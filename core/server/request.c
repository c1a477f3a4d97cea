/* SPDX-License-Identifier: MIT */
/* What handlers see of a request: its parts, its answer, its stream. */
#include "config.h"

#include "server/http_private.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/utf8.h"
#include "server/errors.h"

#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

void request_unref(struct http_request *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1) {
        return;
    }
    for (size_t i = 0; i < r->n_headers; i++) {
        free(r->headers[i].value);
    }
    if (r->http->o.end && r->taken) {
        r->http->o.end(r->http->o.app, r->taken);
    }
    cJSON_Delete(r->body);
    buf_clear(&r->received);
    buf_clear(&r->out);
    free(r->path_id);
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- what was asked -------------------------------------------------------------------------------------------------- */

const char *http_request_id(const struct http_request *r)
{
    return r->id;
}

const char *http_request_trace(const struct http_request *r)
{
    return r->traceparent;
}

int64_t http_begun_ns(const struct http_request *r)
{
    return r->begun_ns;
}

void *http_taken(const struct http_request *r)
{
    return r->taken;
}

const char *http_path_id(const struct http_request *r)
{
    return r->path_id ? r->path_id : "";
}

const char *http_asked(const struct http_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

const char *http_query(const struct http_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
}

const struct access_caller *http_caller(const struct http_request *r)
{
    return &r->caller;
}

int http_is_local(const struct http_request *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *at = info ? info->client_addr : NULL;
    if (!at || at->sa_family == AF_UNIX) {
        return at != NULL;
    }
    if (at->sa_family == AF_INET) {
        return ntohl(((const struct sockaddr_in *)at)->sin_addr.s_addr) >> 24 == 127;
    }
    return at->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)at)->sin6_addr);
}

int http_peer(const struct http_request *r, uid_t *out)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred peer = { 0 };
    struct sockaddr_storage at = { 0 };
    socklen_t bytes = sizeof peer;
    socklen_t at_bytes = sizeof at;
    if (!info || getsockname(info->connect_fd, (struct sockaddr *)&at, &at_bytes) || at.ss_family != AF_UNIX ||
        getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes)) {
        return 0;
    }
    *out = peer.uid;
    return 1;
}

const cJSON *http_body(const struct http_request *r)
{
    return r->body;
}

const struct claas_call *http_call(const struct http_request *r)
{
    return &r->call.abi;
}

void http_deadline(struct http_request *r, int64_t ms)
{
    r->call.deadline_ns = ms > 0 ? clock_mono_ns() + ms * 1000000 : 0;
}

/* While suspended, libmicrohttpd does not watch the connection: so we look ourselves. */
int http_gone(struct http_request *r)
{
    (void)pthread_mutex_lock(&r->lock);
    if (!r->gone && r->suspended) {
        struct pollfd p = { .fd = r->fd, .events = POLLRDHUP };
        if (poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))) {
            r->gone = 1;
        }
    }
    int gone = r->gone;
    (void)pthread_mutex_unlock(&r->lock);
    return gone;
}

int http_wait_take(struct http_request *r, struct claas_error *err)
{
    struct http *h = r->http;
    if (atomic_fetch_add(&h->n_waiters, 1) < h->o.waiters) {
        r->waits = 1;
        return 0;
    }
    (void)atomic_fetch_sub(&h->n_waiters, 1);
    int rc = err_set(err, CLAAS_ERR_EXHAUSTED, "",
                     "%u requests wait for jobs already, which is the limit: come back later, or send 'Prefer: respond-async'"
                     " and ask for the job",
                     h->o.waiters);
    err->retry_after_ms = 5000;
    return rc;
}

void http_wait_then(struct http_request *r, http_handler then, const char *note)
{
    (void)snprintf(r->note, sizeof r->note, "%s", note);
    r->then = then;
}

const char *http_note(const struct http_request *r)
{
    return r->note;
}

/* Body of a refused content: the list form that validation of the Python system gave. */
static void request_refuse_json(struct http_request *r, const char *why)
{
    cJSON *row = cJSON_CreateObject();
    cJSON *loc = cJSON_AddArrayToObject(row, "loc");
    cJSON *list = cJSON_CreateArray();
    if (!cJSON_AddItemToArray(loc, cJSON_CreateString("body")) ||
        !cJSON_AddStringToObject(row, "type", "json_invalid") || !cJSON_AddStringToObject(row, "msg", why) ||
        !cJSON_AddNullToObject(row, "input")) {
        cJSON_Delete(row);
        row = NULL;
    }
    if (!cJSON_AddItemToArray(list, row)) {
        cJSON_Delete(row);
        cJSON_Delete(list);
        http_answer(r, 500, NULL);
        return;
    }
    http_answer(r, 422, error_body_list(list, why, "body"));
}

static int request_is_json(const struct http_request *r)
{
    const char *type = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_TYPE);
    size_t n = type ? strcspn(type, ";") : 0;
    while (n > 0 && (type[n - 1] == ' ' || type[n - 1] == '\t')) {
        n--;
    }
    return n == strlen("application/json") && strncasecmp(type, "application/json", n) == 0;
}

int request_parse(struct http_request *r)
{
    if (!r->route->body) {
        return 0;
    }
    if (r->received.failed) {
        http_answer(r, 500, NULL);
        return -1;
    }
    if (r->received.len > 0 && !request_is_json(r)) {
        request_refuse(r, 415, "unsupported_media_type", "the body's content type must be application/json",
                       "content-type");
        return -1;
    }
    if (!utf8_valid(buf_str(&r->received), r->received.len)) {
        request_refuse(r, 400, "invalid", "cannot read the body: it is not valid UTF-8", "body");
        return -1;
    }
    struct claas_error err = ERR_INIT;
    int rc = json_parse(buf_str(&r->received), r->received.len, "body", &r->body, &err);
    if (rc == 0 && !cJSON_IsObject(r->body)) {
        rc = err_set(&err, CLAAS_ERR_INVALID, "body", "the body must be a JSON object");
    }
    if (rc == CLAAS_ERR_INVALID) {
        request_refuse_json(r, err.message);
    } else if (rc) {
        http_fail(r, &err);
    }
    buf_clear(&r->received); /* the tree has all of it */
    return rc;
}

/* ---- the answer -------------------------------------------------------------------------------------------------------- */

void http_header(struct http_request *r, const char *name, const char *value)
{
    char *copy = r->n_headers < HTTP_HEADERS ? strdup(value) : NULL;
    if (copy) {
        r->headers[r->n_headers].name = name;
        r->headers[r->n_headers++].value = copy;
    }
}

/* Puts headers on the answer and lets it go. A null response (out of memory) cuts the connection. */
static int request_send(struct http_request *r, int status, const char *type, struct MHD_Response *response)
{
    if (response) {
        int ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES;
        ok &= MHD_add_response_header(response, "X-Request-Id", r->id) == MHD_YES;
        if (r->traceparent[0]) {
            ok &= MHD_add_response_header(response, "traceresponse", r->traceparent) == MHD_YES;
        }
        ok &= MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") == MHD_YES;
        ok &= MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store") == MHD_YES;
        for (size_t i = 0; i < r->n_headers; i++) {
            ok &= MHD_add_response_header(response, r->headers[i].name, r->headers[i].value) == MHD_YES;
        }
        if (atomic_load(&r->http->stopping)) {
            ok &= MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
        }
        if (!ok) {
            MHD_destroy_response(response);
            response = NULL;
        }
    }
    r->response = response;
    r->status = response ? status : 500;
    request_answered(r); /* from here on r->response is libmicrohttpd's thread's */
    return response ? 0 : -1;
}

void http_answer_text(struct http_request *r, int status, const char *type, char *text)
{
    static char nothing[] = "{\"detail\":\"out of memory\",\"error\":{\"code\":\"exhausted\","
                            "\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null}}";
    struct MHD_Response *response;
    if (text) {
        r->sent_bytes = strlen(text);
        response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
        if (!response) {
            free(text);
        }
    } else {
        status = 500;
        type = "application/json";
        response = MHD_create_response_from_buffer(sizeof nothing - 1, nothing, MHD_RESPMEM_PERSISTENT);
    }
    (void)request_send(r, status, type, response); /* without a response the connection is cut */
}

void http_answer(struct http_request *r, int status, cJSON *body)
{
    char *text = body ? json_print(body) : NULL;
    cJSON_Delete(body);
    http_answer_text(r, status, "application/json", text);
}

void http_answer_file(struct http_request *r, const char *type, int fd, uint64_t bytes)
{
    struct MHD_Response *response = MHD_create_response_from_fd64(bytes, fd);
    r->sent_bytes = bytes;
    if (!response) {
        (void)close(fd); /* read only: nothing can be lost */
    }
    (void)request_send(r, 200, type, response); /* the same */
}

void request_refuse(struct http_request *r, int status, const char *code, const char *message, const char *param)
{
    http_answer(r, status, error_body(status, code, message, param));
}

void http_fail(struct http_request *r, const struct claas_error *err)
{
    int status = err_http_status(err->code);
    if (status == 401) {
        http_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    }
    if (err->code == CLAAS_ERR_CANCELLED && atomic_load(&r->http->stopping)) {
        status = 503;
    }
    if (status == 503 || status == 429) {
        char seconds[16];
        (void)snprintf(seconds, sizeof seconds, "%u", err->retry_after_ms / 1000 + 1);
        http_header(r, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    request_refuse(r, status, err_name(err->code), err->message, err->what);
}

/* ---- streams ------------------------------------------------------------------------------------------------------------ */

/* [libmicrohttpd's thread] The next piece, or sleep until there is one. */
static ssize_t stream_read(void *ctx, uint64_t at, char *out, size_t max)
{
    struct http_request *r = ctx;
    (void)at;
    ssize_t got = 0;
    (void)pthread_mutex_lock(&r->lock);
    size_t left = r->out.len - r->sent;
    if (left > 0) {
        got = (ssize_t)(left < max ? left : max);
        memcpy(out, r->out.data + r->sent, (size_t)got);
        r->sent_bytes += (uint64_t)got;
        r->sent += (size_t)got;
        if (r->sent == r->out.len) {
            buf_cut(&r->out, 0);
            r->sent = 0;
        }
    } else if (r->out.failed) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (r->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        r->suspended = 1;
        MHD_suspend_connection(r->connection);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return got;
}

static void stream_free(void *ctx)
{
    request_unref(ctx);
}

/* Under r->lock. */
static void stream_wake(struct http_request *r)
{
    if (r->suspended) {
        r->suspended = 0;
        MHD_resume_connection(r->connection);
    }
}

int http_stream_begin(struct http_request *r)
{
    (void)atomic_fetch_add(&r->refs, 1);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, stream_read, r, stream_free);
    if (!response) {
        request_unref(r);
        return -1;
    }
    r->streams = 1;
    return request_send(r, 200, "text/event-stream", response);
}

int http_stream_write(struct http_request *r, const void *data, size_t n)
{
    (void)pthread_mutex_lock(&r->lock);
    if (!r->gone && r->sent > HTTP_STREAM_MAX / 2) {
        memmove(r->out.data, r->out.data + r->sent, r->out.len - r->sent);
        buf_cut(&r->out, r->out.len - r->sent);
        r->sent = 0;
    }
    if (!r->gone && (n > HTTP_STREAM_MAX || r->out.len - r->sent > HTTP_STREAM_MAX - n)) {
        r->gone = 1; /* it reads too slowly, or not at all */
        r->out.failed = 1;
    }
    if (!r->gone) {
        buf_add(&r->out, data, n);
    }
    stream_wake(r);
    int gone = r->gone || r->out.failed;
    (void)pthread_mutex_unlock(&r->lock);
    return gone;
}

void http_stream_end(struct http_request *r)
{
    (void)pthread_mutex_lock(&r->lock);
    r->ended = 1;
    stream_wake(r);
    (void)pthread_mutex_unlock(&r->lock);
}

int http_stream_begun(const struct http_request *r)
{
    return r->streams;
}
