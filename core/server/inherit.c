/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "server/inherit.h"

#include "base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INHERIT_FIRST = 3 }; /* by the protocol */

/* A whole number, or -1. */
static long inherit_number(const char *text)
{
    char *end = NULL;
    errno = 0;
    long n = text && text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
    return n >= 0 && errno == 0 && *end == '\0' ? n : -1;
}

static int inherit_one(int fd, struct claas_error *err)
{
    int type = 0;
    int listens = 0;
    socklen_t bytes = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes)) {
        return err_errno(err, errno, "LISTEN_FDS", "cannot use descriptor %d of LISTEN_FDS", fd);
    }
    bytes = sizeof listens;
    if (type != SOCK_STREAM || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) || !listens) {
        return err_set(err, CLAAS_ERR_INVALID, "LISTEN_FDS",
                       "cannot use descriptor %d of LISTEN_FDS: it is not a listening stream socket", fd);
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC)) {
        return err_errno(err, errno, "LISTEN_FDS", "cannot use descriptor %d of LISTEN_FDS", fd);
    }
    return 0;
}

/* The i-th of names with colons between them. */
static void inherit_name(const char *names, size_t i, char out[INHERIT_NAME])
{
    for (; names && i > 0; i--) {
        names = strchr(names, ':');
        names = names ? names + 1 : NULL;
    }
    (void)snprintf(out, INHERIT_NAME, "%.*s", names ? (int)strcspn(names, ":") : 0, names ? names : "");
}

static int inherit_all(struct inherited *out, size_t *out_n, struct claas_error *err)
{
    const char *count = getenv("LISTEN_FDS");
    const char *names = getenv("LISTEN_FDNAMES");
    long n = inherit_number(count);
    if (!count || inherit_number(getenv("LISTEN_PID")) != (long)getpid()) {
        return 0; /* meant for nobody, or for whoever started us */
    }
    if (n < 0 || n > INHERIT_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "LISTEN_FDS", "cannot use LISTEN_FDS '%.16s': expected 0 to %d sockets",
                       count, INHERIT_MAX);
    }
    for (long i = 0; i < n; i++) {
        int rc = inherit_one(INHERIT_FIRST + (int)i, err);
        if (rc) {
            return rc;
        }
        out[i].fd = INHERIT_FIRST + (int)i;
        inherit_name(names, (size_t)i, out[i].name);
    }
    *out_n = (size_t)n;
    return 0;
}

int inherit_sockets(struct inherited out[INHERIT_MAX], size_t *out_n, struct claas_error *err)
{
    *out_n = 0;
    int rc = inherit_all(out, out_n, err);
    (void)unsetenv("LISTEN_FDS"); /* fails for names that are none only */
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDNAMES");
    return rc;
}

int inherit_check_local(const struct inherited *socket, struct claas_error *err)
{
    struct sockaddr_storage at = { 0 };
    socklen_t bytes = sizeof at;
    char host[INET6_ADDRSTRLEN] = "";
    if (getsockname(socket->fd, (struct sockaddr *)&at, &bytes)) {
        return err_errno(err, errno, "LISTEN_FDS", "cannot use descriptor %d of LISTEN_FDS", socket->fd);
    }
    const struct sockaddr_in *four = (const void *)&at;
    const struct sockaddr_in6 *six = (const void *)&at;
    int local = at.ss_family == AF_UNIX || (at.ss_family == AF_INET && ntohl(four->sin_addr.s_addr) >> 24 == 127) ||
                (at.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&six->sin6_addr));
    if (local) {
        return 0;
    }
    const void *address = at.ss_family == AF_INET6 ? (const void *)&six->sin6_addr : &four->sin_addr;
    (void)inet_ntop(at.ss_family == AF_INET6 ? AF_INET6 : AF_INET, address, host, sizeof host);
    return err_set(err, CLAAS_ERR_FORBIDDEN, "LISTEN_FDS",
                   "cannot use descriptor %d of LISTEN_FDS: it listens on '%s', expected a loopback address or a Unix "
                   "socket", socket->fd, host);
}
