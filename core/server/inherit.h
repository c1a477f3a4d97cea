/* SPDX-License-Identifier: MIT */
/* Sockets that the service manager opened for us, by the protocol of sd_listen_fds(3), without its library. */
#ifndef SERVER_INHERIT_H
#define SERVER_INHERIT_H

#include <claas/error.h>

#include <stddef.h>

enum { INHERIT_MAX = 8, INHERIT_NAME = 64 };

struct inherited {
    int fd;                  /* listening, a stream, close-on-exec, not blocking */
    char name[INHERIT_NAME]; /* of LISTEN_FDNAMES; "" when there is none */
};

/* Takes what LISTEN_FDS passes to this process (LISTEN_PID), and removes the variables in any case; before the first
 * thread. INVALID when a descriptor is no listening stream socket. */
int inherit_sockets(struct inherited out[INHERIT_MAX], size_t *out_n, struct claas_error *err);

/* 0 if only this host can reach the socket (loopback, Unix), else FORBIDDEN, naming its address. */
int inherit_check_local(const struct inherited *socket, struct claas_error *err);

#endif
