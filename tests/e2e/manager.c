/* SPDX-License-Identifier: MIT */
/* A service manager for tests: runs a command as its child with a notify socket, a watchdog and sockets that it opened,
 * writes what it is told to a file, passes signals on, and leaves with the child's status.
 *
 *     manager [-a] [-l | -d] [-w USEC] FILE COMMAND [ARGUMENT]...
 *
 * -a: the notify socket is abstract; -l: passes a listening socket, its port goes to FILE.port; -d: passes a socket that
 * does not listen. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int fine, const char *what)
{
    if (!fine) {
        perror(what);
        exit(99);
    }
}

static int notify_open(const char *file, int abstract)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    char name[200];
    (void)snprintf(name, sizeof name, "%s%s.notify", abstract ? "@" : "", file);
    size_t n = strlen(name);
    need(n < sizeof at.sun_path, "the name is too long");
    memcpy(at.sun_path, name, n);
    if (abstract) {
        at.sun_path[0] = '\0';
    } else {
        (void)unlink(name); /* of the run before */
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    need(bind(fd, (struct sockaddr *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) == 0, "bind");
    need(setenv("NOTIFY_SOCKET", name, 1) == 0, "setenv");
    return fd;
}

static int socket_open(const char *file, int listens)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof at;
    char name[200];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && (!listens || listen(fd, 16) == 0) &&
             getsockname(fd, (struct sockaddr *)&at, &bytes) == 0, "socket");
    (void)snprintf(name, sizeof name, "%s.port", file);
    FILE *port = fopen(name, "w");
    need(port && fprintf(port, "%u\n", ntohs(at.sin_port)) > 0 && fclose(port) == 0, "port");
    return fd;
}

static void child(int passed, const sigset_t *signals, char **command)
{
    char pid[32];
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    need(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && sigprocmask(SIG_UNBLOCK, signals, NULL) == 0, "child");
    need(!getenv("WATCHDOG_USEC") || setenv("WATCHDOG_PID", pid, 1) == 0, "setenv");
    if (passed >= 0) {
        need(setenv("LISTEN_FDS", "1", 1) == 0 && setenv("LISTEN_PID", pid, 1) == 0, "setenv");
        need(passed == 3 ? fcntl(3, F_SETFD, 0) == 0 : dup2(passed, 3) == 3, "dup2");
    }
    (void)execvp(command[0], command);
    need(0, command[0]);
}

/* Until the child ends; its status. */
static int manage(int notify, int signals, pid_t pid, FILE *heard)
{
    for (;;) {
        struct pollfd p[2] = { { .fd = notify, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
        struct signalfd_siginfo info;
        char text[1024];
        int status = 0;
        need(poll(p, 2, -1) >= 0 || errno == EINTR, "poll");
        ssize_t n = p[0].revents ? recv(notify, text, sizeof text, MSG_DONTWAIT) : 0;
        if (n > 0) {
            need(fprintf(heard, "%.*s\n", (int)n, text) > 0 && fflush(heard) == 0, "write");
        } else if (p[1].revents && read(signals, &info, sizeof info) == sizeof info && info.ssi_signo != SIGCHLD) {
            need(kill(pid, (int)info.ssi_signo) == 0, "kill");
        } else if (waitpid(pid, &status, WNOHANG) == pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
}

int main(int argc, char **argv)
{
    int abstract = 0;
    int passes = 0;
    int c;
    while ((c = getopt(argc, argv, "+aldw:")) != -1) {
        abstract |= c == 'a';
        passes = c == 'l' || c == 'd' ? c : passes;
        need(c != '?' && (c != 'w' || setenv("WATCHDOG_USEC", optarg, 1) == 0), "usage");
    }
    need(argc - optind >= 2, "usage");
    const char *file = argv[optind];
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGCHLD);
    need(sigprocmask(SIG_BLOCK, &set, NULL) == 0, "sigprocmask");
    int passed = passes ? socket_open(file, passes == 'l') : -1;
    int notify = notify_open(file, abstract);
    FILE *heard = fopen(file, "we");
    need(heard != NULL, file);
    pid_t pid = fork();
    need(pid >= 0, "fork");
    if (pid == 0) {
        child(passed, &set, argv + optind + 1);
    }
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    need(signals >= 0, "signalfd");
    return manage(notify, signals, pid, heard);
}
