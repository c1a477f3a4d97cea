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
enum { DAEMON_OK = 0, DAEMON_FAILED = 1, DAEMON_USAGE = 2, DAEMON_PLUGIN = 5, DAEMON_CONFIG = 6 };

/* Loads the plugins that are configured and checks their options; touches neither device nor network nor state. The
 * configuration outlives the daemon. On failure *out_exit is the status to leave with. */
int daemon_new(const struct config *config, struct daemon **out, int *out_exit, struct claas_error *err);

/* The effective configuration as YAML. */
int daemon_print(const struct daemon *d, struct buf *out, struct claas_error *err);

/* Locks the state directory, listens, writes claasd.port, and begins to open the rest in a thread. */
int daemon_start(struct daemon *d, struct claas_error *err);

/* Becomes readable when opening has failed; then daemon_failure tells the exit status, and why. */
int daemon_failed_fd(const struct daemon *d);
int daemon_failure(struct daemon *d, struct claas_error *err);

/* Stops what daemon_start began, finishing requests for a while. Null is fine. */
void daemon_free(struct daemon *d);

#endif
