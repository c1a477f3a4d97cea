/* SPDX-License-Identifier: MIT */
/* What http.c (the exchange with libmicrohttpd) and request.c (what handlers see) share. */
#ifndef SERVER_HTTP_PRIVATE_H
#define SERVER_HTTP_PRIVATE_H

#include "server/http.h"
#include "server/pool.h"
#include "server/trace.h"

#include "base/buf.h"
#include "host/call.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    HTTP_ID_MAX = 128,
    HTTP_HEADERS = 6,
    HTTP_STREAM_MAX = 1 << 20, /* bytes a client may lag behind before its stream is cut */
};

struct http {
    struct http_options o;
    struct MHD_Daemon *daemon;
    struct pool *pool;
    uint16_t port;
    atomic_int stopping;
    pthread_mutex_t lock;         /* of the list; taken before no other lock */
    pthread_cond_t left;          /* the list has become empty */
    struct http_request *requests;
    uint32_t n_requests;
    atomic_uint n_waiters;
};

enum http_state { HTTP_RECEIVING, HTTP_WORKING, HTTP_ANSWERED };

struct http_request {
    struct http *http;
    struct http_request *next, *prev; /* under http.lock */
    struct MHD_Connection *connection;
    const struct http_route *route;   /* null: none */
    atomic_int refs;                  /* libmicrohttpd's, the handler's, the stream's */
    void *taken;
    int fd;
    int64_t begun_ns;
    struct access_caller caller;
    uint64_t sent_bytes;              /* of the answer's body; a stream's: under lock */
    char id[HTTP_ID_MAX + 1];
    struct trace trace;               /* empty id: the client told of none */
    char traceparent[TRACE_TEXT];     /* of our span; "" as well */
    char *path_id;
    struct buf received;
    uint64_t received_bytes;          /* of the body, also of one that is dropped */
    int too_large;
    cJSON *body;
    struct host_call call;
    int waits;                        /* has a place in lane WAIT */
    http_handler then;                /* goes on there; null: nothing does */
    char note[HTTP_NOTE];
    struct { const char *name; char *value; } headers[HTTP_HEADERS];
    size_t n_headers;

    /* The answer: set by whoever handles the request before `state` becomes ANSWERED. */
    struct MHD_Response *response;
    int status;

    pthread_mutex_t lock;
    enum http_state state;            /* all below: under lock */
    int suspended;
    int gone;
    int streams, ended;
    struct buf out;                   /* of the stream: what is still to be sent, from `sent` on */
    size_t sent;
};

void request_unref(struct http_request *r);
/* Makes the answer known: libmicrohttpd's thread goes on with it. */
void request_answered(struct http_request *r);
/* An answer of our own making: 404, 405, 413 … */
void request_refuse(struct http_request *r, int status, const char *code, const char *message, const char *param);
/* Checks and parses what was received; 0, or it has been answered. */
int request_parse(struct http_request *r);

#endif
