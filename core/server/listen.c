/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "server/listen.h"

#include "base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024
#define BEGUN ".new" /* of a path until all is ready */

int listen_tcp(const char *host, uint16_t port, int *out_fd, struct claas_error *err)
{
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
    int is_six = strchr(host, ':') != NULL;
    struct sockaddr *at = is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    socklen_t bytes = is_six ? sizeof six : sizeof four;
    void *where = is_six ? (void *)&six.sin6_addr : (void *)&four.sin_addr;
    if (inet_pton(at->sa_family, host, where) != 1) {
        return err_set(err, CLAAS_ERR_INVALID, "listen", "cannot listen on '%s': not an address", host);
    }
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(fd, at, bytes) || listen(fd, BACKLOG)) {
        int rc = err_errno(err, errno, "listen", "cannot listen on '%s' port %u", host, port);
        if (fd >= 0) {
            (void)close(fd); /* nothing was written to it */
        }
        return rc;
    }
    *out_fd = fd;
    return 0;
}

/* Whether a new socket may take this place. */
static int place_check(const char *path, const struct sockaddr_un *at, struct claas_error *err)
{
    struct stat st;
    if (lstat(path, &st)) {
        return errno == ENOENT ? 0 : err_errno(err, errno, "listen", "cannot listen at '%s'", path);
    }
    if (!S_ISSOCK(st.st_mode)) {
        return err_set(err, CLAAS_ERR_INVALID, "listen", "cannot listen at '%s': something else than a socket is there", path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_errno(err, errno, "listen", "cannot listen at '%s'", path);
    }
    int refused = connect(fd, (const struct sockaddr *)at, sizeof *at) && errno == ECONNREFUSED;
    (void)close(fd); /* nothing was written to it */
    return refused ? 0 : err_set(err, CLAAS_ERR_CONFLICT, "listen", "cannot listen at '%s': somebody does already", path);
}

/* Nobody can connect before the permissions are right: until then nothing listens. */
static int socket_put(int fd, const char *path, const char *begun, mode_t mode, const struct sockaddr_un *at,
                      struct claas_error *err)
{
    if (unlink(begun) && errno != ENOENT) {
        return err_errno(err, errno, "listen", "cannot remove '%s'", begun);
    }
    if (bind(fd, (const struct sockaddr *)at, sizeof *at)) {
        return err_errno(err, errno, "listen", "cannot listen at '%s'", path);
    }
    if (chmod(begun, mode) || listen(fd, BACKLOG) || rename(begun, path)) {
        int rc = err_errno(err, errno, "listen", "cannot listen at '%s'", path);
        (void)unlink(begun); /* at worst it stays, and the next start removes it */
        return rc;
    }
    return 0;
}

int listen_unix(const char *path, mode_t mode, int *out_fd, struct claas_error *err)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct sockaddr_un begun = { .sun_family = AF_UNIX };
    if (strlen(path) + sizeof BEGUN > sizeof at.sun_path) {
        return err_set(err, CLAAS_ERR_INVALID, "listen", "cannot listen at '%s': a socket's path has at most %zu bytes", path,
                       sizeof at.sun_path - sizeof BEGUN);
    }
    memcpy(at.sun_path, path, strlen(path) + 1);
    (void)snprintf(begun.sun_path, sizeof begun.sun_path, "%.*s%s", (int)(sizeof begun.sun_path - sizeof BEGUN), path, BEGUN);
    int rc = place_check(path, &at, err);
    int fd = rc ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (rc == 0 && fd < 0) {
        rc = err_errno(err, errno, "listen", "cannot listen at '%s'", path);
    }
    if (rc == 0) {
        rc = socket_put(fd, path, begun.sun_path, mode, &begun, err);
    }
    if (rc) {
        if (fd >= 0) {
            (void)close(fd); /* nothing was written to it */
        }
        return rc;
    }
    *out_fd = fd;
    return 0;
}

uint16_t listen_port(int fd)
{
    struct sockaddr_storage at = { 0 };
    socklen_t bytes = sizeof at;
    if (getsockname(fd, (struct sockaddr *)&at, &bytes)) {
        return 0;
    }
    return at.ss_family == AF_INET    ? ntohs(((struct sockaddr_in *)&at)->sin_port)
           : at.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&at)->sin6_port)
                                      : 0;
}
