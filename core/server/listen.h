/* SPDX-License-Identifier: MIT */
/* Listening sockets: an address and port, a path, or one that somebody else opened. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include <claas/error.h>

#include <stdint.h>
#include <sys/types.h>

/* host: a numeric address; port 0 takes any free one. */
int listen_tcp(const char *host, uint16_t port, int *out_fd, struct claas_error *err);
/* A socket in the file system with these permissions, at an absolute path. What is left of a listener that has gone is
 * replaced; CONFLICT while somebody listens there, INVALID where something else is in the way. */
int listen_unix(const char *path, mode_t mode, int *out_fd, struct claas_error *err);
/* 0 for a Unix socket. */
uint16_t listen_port(int fd);

#endif
