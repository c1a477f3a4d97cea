/* SPDX-License-Identifier: MIT */
/* One datagram to the socket that NOTIFY_SOCKET names. */
#include "config.h"

#include "server/notify.h"

#include "base/clock.h"
#include "base/log.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void notify_send(const char *message)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@')) {
        return;
    }
    memcpy(to.sun_path, path, n);
    if (path[0] == '@') {
        to.sun_path[0] = '\0'; /* an abstract socket */
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    if (fd < 0 || sendto(fd, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr *)&to, bytes) < 0) {
        log_line(LOG_WARNING, "server", "cannot tell the service manager on '%s'", path);
    }
    if (fd >= 0) {
        (void)close(fd); /* the datagram is sent or lost */
    }
}

void notify_ready(const char *status)
{
    char message[512];
    (void)snprintf(message, sizeof message, "READY=1\nMAINPID=%ld\nSTATUS=%s", (long)getpid(), status);
    notify_send(message);
}

void notify_reloading(void)
{
    char message[128];
    (void)snprintf(message, sizeof message, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)(clock_mono_ns() / 1000));
    notify_send(message);
}

int64_t notify_watchdog_ms(void)
{
    const char *allowed = getenv("WATCHDOG_USEC");
    const char *whom = getenv("WATCHDOG_PID");
    char *end = NULL;
    long long usec = allowed ? strtoll(allowed, &end, 10) : 0;
    if (usec <= 0 || *end != '\0' || (whom && strtoll(whom, NULL, 10) != (long long)getpid())) {
        return 0;
    }
    return usec / 2000 > 0 ? usec / 2000 : 1;
}
