/* SPDX-License-Identifier: MIT */
/* The daemon's HTTP API as the command line uses it, over libcurl. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "cli/cli.h"

/* Largest answer held in memory. */
#define CLIENT_ANSWER_MAX ((size_t)64 << 20)

/* One request; `body` null for none. A status below 300 gives *out (to be deleted); else *err
 * carries the daemon's words, and "unreachable" (what = "url") when nobody answered. */
int client_call(const struct cli *c, const char *method, const char *path, const cJSON *body,
                cJSON **out, struct claas_error *err);

/* The same with one more header, "Name: value". */
int client_call_with(const struct cli *c, const char *method, const char *path, const char *header,
                     const cJSON *body, cJSON **out, struct claas_error *err);

/* POST, or GET without a body, whose answer is a stream of server-sent events: each() gets the JSON of
 * every event until [DONE]; a non-zero return ends the stream. An event that has an error, and an end
 * without either, are errors. */
int client_stream(const struct cli *c, const char *path, const cJSON *body,
                  int (*each)(void *ctx, const cJSON *event), void *ctx, struct claas_error *err);

/* GET of `url` (absolute, or a path of the daemon's) into an open file; `limit` bounds the bytes.
 * Progress on a terminal. */
int client_download(const struct cli *c, const char *url, FILE *to, size_t limit,
                    struct claas_error *err);

/* "PATH?name=value&…" with every value escaped; pairs end with a null name, a null value is left
 * out. Heap. */
char *client_path(const char *path, const char *const *pairs);

/* Adds {"role", "content"} to a list of messages; 0, or CLI_FAILED when out of memory. */
int client_add_message(cJSON *messages, const char *role, const char *content);

/* Exit status of an error that client_* returned. */
int client_exit_status(const struct claas_error *err);

#endif
