/* SPDX-License-Identifier: MIT */
/* The life of claasd: plugins loaded and options checked, the state directory locked, listening, rooms opened behind it,
 * kept, and all of it taken down again in reverse. */
#ifndef SERVER_DAEMON_H
#define SERVER_DAEMON_H

#include "base/buf.h"
#include "config/config.h"

#include <claas/error.h>

struct daemon;

/* Exit statuses of claasd (exemplars of daemons agree on these). */
enum { DAEMON_OK = 0, DAEMON_FAILED = 1, DAEMON_USAGE = 2, DAEMON_PLUGIN = 5, DAEMON_CONFIG = 6, DAEMON_TAKEN = 8 };

/* Loads the plugins that are configured and checks their options; touches neither device nor network nor state. The
 * configuration outlives the daemon. On failure *out_exit is the status to leave with. */
int daemon_new(const struct config *config, struct daemon **out, int *out_exit, struct claas_error *err);

/* The effective configuration as YAML. */
int daemon_print(const struct daemon *d, struct buf *out, struct claas_error *err);

/* A listening socket, taken over, to be used instead of the configured address; before daemon_start. */
void daemon_inherit(struct daemon *d, int listener);

/* Locks the state directory, listens, writes claasd.port, and begins to open the rest in a thread. On failure *out_exit is
 * the status to leave with: DAEMON_TAKEN where another process has the state directory. */
int daemon_start(struct daemon *d, int *out_exit, struct claas_error *err);

/* Becomes readable when opening has failed; then daemon_failure tells the exit status, and why. */
int daemon_failed_fd(const struct daemon *d);
int daemon_failure(struct daemon *d, struct claas_error *err);

/* Checks a configuration that was read anew, and lets it count where it may change while running; what else differs is
 * named in a warning. Takes it over on success; on failure all stays. */
int daemon_reload(struct daemon *d, struct config *config, struct claas_error *err);

/* For the metrics: a reload went well, or was refused, here or before it came here. */
void daemon_count_reload(struct daemon *d, int failed);

/* 1: all that is configured is open. */
int daemon_ready(const struct daemon *d);

/* 1: requests are taken and answered. */
int daemon_alive(struct daemon *d, uint32_t ms);

/* Accepts nothing more, and lets what is in progress finish for limits.stop_timeout, or until `hurry`, a descriptor, can
 * be read. */
void daemon_drain(struct daemon *d, int hurry);

/* Stops what daemon_start began, cancelling what is still in progress. Null is fine. */
void daemon_free(struct daemon *d);

#endif
