/* SPDX-License-Identifier: MIT */
/* HTTP over libmicrohttpd. One thread does all input and output (epoll); handlers that may wait run on bounded lanes of
 * worker threads while their connection is suspended. Routes are one table: not found, wrong method with Allow, body
 * limits and content types follow from it. Knows nothing of models or adapters. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "access/access.h"

#include <cjson/cJSON.h>
#include <claas/error.h>
#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct http;
struct http_request;

/* Where a handler runs. INLINE: in the input/output thread; it must not wait for anything. WAIT is for the second half of
 * handlers that took a place there (http_wait_take), never for a route. */
enum http_lane { HTTP_INLINE, HTTP_QUICK, HTTP_ANSWER, HTTP_TRAIN, HTTP_SUBMIT, HTTP_WAIT, HTTP_LANES };

/* Answers exactly once, by one of the http_answer_… functions, http_fail or a stream. */
typedef void (*http_handler)(void *app, struct http_request *r);

struct http_route {
    const char *method;
    const char *path;   /* a segment "{id}" takes any one segment */
    const char *right;  /* who may call it: "none", "chat", "feedback", "admin", "owner" (whoever has a key; the handler
                         * looks whose it is), "loopback" (admin, or anybody on this machine) */
    enum http_lane lane;
    int body;           /* 1: takes a JSON body; 0: a body is read and dropped */
    http_handler handle;
    const char *doc;
};

struct http_options {
    const char *host;          /* "127.0.0.1" or "::1" */
    uint16_t port;             /* 0: any free one */
    const char *path;          /* a Unix socket instead of those two, with the permissions path_mode; null: none */
    mode_t path_mode;
    const int *listener;       /* a listening socket to take over instead; null: none */
    int tls;                   /* 1: with the certificate of tls_load */
    uint32_t connections_per_address; /* at most so many; 0: no bound but the next */
    uint32_t connections;      /* at most so many; further ones wait in the kernel's queue */
    uint32_t waiters;          /* requests that may sleep at one time until something has happened [128] */
    uint32_t idle_ms;          /* a silent connection is closed; a body must be there within four times this */
    size_t body_bytes;
    const struct http_route *routes; /* borrowed */
    size_t n_routes;
    void *app;
    /* [libmicrohttpd's thread] What a request goes by from its beginning to its end, such as the configuration that
     * counts now; and its end [any thread]. Both may be null. */
    void *(*begin)(void *app);
    void (*end)(void *app, void *taken);
    /* [libmicrohttpd's thread, quick] Who is it, and may he? Fills *out; an error refuses the request. Null: anybody may. */
    int (*admit)(void *app, struct http_request *r, const struct http_route *route, struct access_caller *out,
                 struct claas_error *err);
    /* [any thread, quick] A request was answered. `route` is its row, n_routes if there was none. May be null. */
    void (*answered)(void *app, size_t route, int status, int64_t took_ns);
    /* [libmicrohttpd's thread, quick] Bytes of bodies, received and sent, when the request is over. May be null. */
    void (*moved)(void *app, const struct access_caller *caller, uint64_t bytes);
};

/* Listens when it returns. */
int http_start(const struct http_options *options, struct http **out, struct claas_error *err);
uint16_t http_port(const struct http *h);
/* Accepts nothing more; requests that had not begun get 503. Those in progress go on. */
void http_quiesce(struct http *h);
/* 1: after at most so many milliseconds no handler is at work; behind http_quiesce. */
int http_idle(struct http *h, uint32_t ms);
/* 1: within so many milliseconds the threads that serve took a connection and answered GET /health on it, or there was no
 * place for one; 0: they hang. */
int http_alive(struct http *h, uint32_t ms);
/* Accepts nothing more, gives running handlers `grace_ms` to finish, then cancels their calls and waits for them; sends
 * what they answered; frees. Requests that had not begun get 503. Null is fine. */
void http_stop(struct http *h, uint32_t grace_ms);

struct http_load {
    uint32_t connections, running, waiting; /* open; handlers in progress; in a lane's queue */
};
void http_load(struct http *h, struct http_load *out);

/* ---- for handlers --------------------------------------------------------------------------------------------------- */

/* 32 hexadecimal digits, or what the client sent as X-Request-Id. */
const char *http_request_id(const struct http_request *r);
/* The traceparent (W3C Trace Context) of this request's own span; "" when the client told of no trace. */
const char *http_request_trace(const struct http_request *r);
/* What begin() took for this request; null without one. */
void *http_taken(const struct http_request *r);
/* When its header had come, by the monotonic clock. */
int64_t http_begun_ns(const struct http_request *r);
/* The segment that stood for {id}; "" if the route has none. */
const char *http_path_id(const struct http_request *r);
/* Value of a header of the request, null if absent. */
const char *http_asked(const struct http_request *r, const char *name);
/* Value of a query parameter, null if absent. *bad (may be null) is set when it is not valid text. */
const char *http_query(const struct http_request *r, const char *name);
/* Who asks. */
const struct access_caller *http_caller(const struct http_request *r);
/* 1: the client is on this machine. */
int http_is_local(const struct http_request *r);
/* 1: it came through a Unix socket, from a process of this user. */
int http_peer(const struct http_request *r, uid_t *out);
/* The body: parsed, an object; null in routes without one. Lives as long as the request. */
const cJSON *http_body(const struct http_request *r);
/* Token for calls into other rooms; cancelled when the daemon stops. */
const struct claas_call *http_call(const struct http_request *r);
/* The call is to end after so long; 0: never by itself. */
void http_deadline(struct http_request *r, int64_t ms);
/* 1: the client hung up. */
int http_gone(struct http_request *r);

/* A place among the requests that sleep, before anything is promised to the client. EXHAUSTED: all are taken. It is given
 * back when the request has been answered. */
int http_wait_take(struct http_request *r, struct claas_error *err);
/* With such a place, instead of an answer: `then` goes on and answers, on a thread that may sleep. The handler returns at
 * once. `note`, of at most HTTP_NOTE bytes with its zero, is kept for it. */
enum { HTTP_NOTE = 64 };
void http_wait_then(struct http_request *r, http_handler then, const char *note);
const char *http_note(const struct http_request *r);

/* A header of the answer to come. */
void http_header(struct http_request *r, const char *name, const char *value);
/* Take `body` over (null: out of memory, 500). */
void http_answer(struct http_request *r, int status, cJSON *body);
void http_answer_text(struct http_request *r, int status, const char *type, char *text);
/* Takes fd over. */
void http_answer_file(struct http_request *r, const char *type, int fd, uint64_t bytes);
/* The error's status and both its forms (errors.h). */
void http_fail(struct http_request *r, const struct claas_error *err);

/* A stream of events: status 200 goes out at begin. Writes never wait; non-zero: the client is gone, or so far behind
 * that the queue is full. begin and write may be called from any one thread at a time, end by the handler. */
int http_stream_begin(struct http_request *r);
int http_stream_write(struct http_request *r, const void *data, size_t n);
void http_stream_end(struct http_request *r);
int http_stream_begun(const struct http_request *r);

#endif
