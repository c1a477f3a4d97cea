/* SPDX-License-Identifier: MIT */
/* claasd: flags, signals, exit status. Stays in the foreground. */
#include <config.h>

#include "server/daemon.h"
#include "server/inherit.h"
#include "server/notify.h"

#include "base/err.h"
#include "base/log.h"

#include <claas/version.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SETS_MAX = 64 };

struct flags {
    const char *file;
    const char *sets[SETS_MAX];
    size_t n_sets;
    int test, print, with_parent;
};

static const char usage[] =
    "usage: claasd [-tT] [-c FILE] [--set KEY=VALUE]... [--exit-with-parent]\n"
    "       claasd --version | --help\n"
    "  -c FILE             configuration (" CLAAS_SYSCONFDIR "/claas/claasd.yaml)\n"
    "  -t                  check the configuration and the plugins' options, and exit\n"
    "  -T                  the same, and print the effective configuration\n"
    "  --set KEY=VALUE     laid over the file, such as listen=127.0.0.1:0\n"
    "  --exit-with-parent  stop when the process that started claasd ends\n";

/* 0; -1: done, leave with *out_exit. */
static int flags_parse(int argc, char **argv, struct flags *f, int *out_exit)
{
    static const struct option longer[] = {
        { "config", required_argument, NULL, 'c' }, { "set", required_argument, NULL, 's' },
        { "exit-with-parent", no_argument, NULL, 'p' }, { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 },
    };
    int c;
    *out_exit = DAEMON_OK;
    f->file = CLAAS_SYSCONFDIR "/claas/claasd.yaml";
    while ((c = getopt_long(argc, argv, "c:tThV", longer, NULL)) != -1) {
        if (c == 'c') {
            f->file = optarg;
        } else if (c == 't') {
            f->test = 1;
        } else if (c == 'T') {
            f->print = 1;
        } else if (c == 'p') {
            f->with_parent = 1;
        } else if (c == 's' && f->n_sets < SETS_MAX) {
            f->sets[f->n_sets++] = optarg;
        } else if (c == 'V') {
            (void)printf("claasd %s\nabi %u.%u\nplugins %s\n", PACKAGE_VERSION, CLAAS_ABI_MAJOR, CLAAS_ABI_MINOR,
                         CLAAS_PLUGINDIR);
            return -1;
        } else if (c == 'h') {
            (void)fputs(usage, stdout);
            return -1;
        } else {
            (void)fputs(usage, stderr);
            *out_exit = DAEMON_USAGE;
            return -1;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "claasd: unexpected '%s'\n%s", argv[optind], usage);
        *out_exit = DAEMON_USAGE;
        return -1;
    }
    return 0;
}

/* The signal comes for an end from now on; one that came before shows in another parent. */
static int parent_watch(pid_t parent, struct claas_error *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGTERM)) {
        return err_errno(err, errno, "", "cannot watch the parent process");
    }
    return getppid() == parent ? 0 : err_set(err, CLAAS_ERR_CANCELLED, "", "stopping: the parent process has ended");
}

/* Blocked before the first thread, taken from a descriptor; children and libraries never see a broken pipe. */
static int signals_open(sigset_t *set)
{
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGHUP);
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || pthread_sigmask(SIG_BLOCK, set, NULL)) {
        return -1;
    }
    return signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* From now on a signal ends the process at once: the third one of an impatient user, or one that comes while what was
 * cancelled still takes its time. */
static void signals_release(const sigset_t *set, int signals)
{
    struct signalfd_siginfo taken;
    while (read(signals, &taken, sizeof taken) == sizeof taken) {
        continue; /* the second one has had its effect */
    }
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGHUP, SIG_IGN);
    (void)pthread_sigmask(SIG_UNBLOCK, set, NULL);
}

/* As many descriptors as we may have: connections take one each. */
static void limits_raise(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files); /* the soft limit stays: fewer connections */
    }
}

/* SIGHUP: reads and checks all, then lets it count; else all stays. */
static void reload(struct daemon *d, const struct flags *f)
{
    struct claas_error err = ERR_INIT;
    struct config *config = NULL;
    int ready = daemon_ready(d); /* if not, the keeper is still to say so */
    if (ready) {
        notify_reloading();
    }
    int rc = config_load_overrides(f->file, f->sets, f->n_sets, &config, &err);
    rc = rc ? rc : daemon_reload(d, config, &err);
    daemon_count_reload(d, rc != 0);
    if (rc) {
        log_line(LOG_ERROR, "config", "the configuration stays as it was: %s", err.message);
        config_free(config);
    } else {
        log_line(LOG_INFO, "config", "reloaded '%s'", f->file);
    }
    if (ready) {
        notify_ready(rc ? "the configuration was not reloaded, see the log" : "ready");
    }
}

/* The service manager kills who does not say in time that he lives; so this is asked, not taken for granted. */
static void watchdog(struct daemon *d, int64_t every_ms)
{
    if (daemon_alive(d, (uint32_t)(every_ms / 2))) {
        notify_send("WATCHDOG=1");
    } else {
        log_line(LOG_ERROR, "server", "requests are not answered: the watchdog is not told that all is well");
    }
}

/* 1: go on; 0: stop. */
static int take_signal(struct daemon *d, const struct flags *f, int signals)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof info) != sizeof info) {
        return 1;
    }
    if (info.ssi_signo == SIGHUP) {
        reload(d, f);
        return 1;
    }
    log_line(LOG_INFO, "server", "stopping: signal %u", info.ssi_signo);
    return 0;
}

static int run_until_signal(struct daemon *d, const struct flags *f, int signals)
{
    struct claas_error err = ERR_INIT;
    int64_t every_ms = notify_watchdog_ms();
    for (;;) {
        struct pollfd p[2] = { { .fd = signals, .events = POLLIN }, { .fd = daemon_failed_fd(d), .events = POLLIN } };
        int n = poll(p, 2, every_ms > 0 && every_ms < INT_MAX ? (int)every_ms : -1);
        if (n < 0 && errno != EINTR) {
            return DAEMON_FAILED;
        }
        if (p[1].revents) {
            int status = daemon_failure(d, &err);
            log_line(LOG_ERROR, "server", "%s", err.message);
            return status;
        }
        if (p[0].revents && !take_signal(d, f, signals)) {
            return DAEMON_OK;
        }
        if (every_ms > 0) {
            watchdog(d, every_ms);
        }
    }
}

static int inherit(struct daemon *d, struct claas_error *err)
{
    struct inherited sockets[INHERIT_MAX];
    size_t n = 0;
    int rc = inherit_sockets(sockets, &n, err);
    if (rc == 0 && n > 1) {
        rc = err_set(err, CLAAS_ERR_INVALID, "LISTEN_FDS", "cannot use %zu sockets of LISTEN_FDS: expected one", n);
    }
    if (rc == 0 && n == 1) {
        rc = inherit_check_local(&sockets[0], err);
    }
    if (rc == 0 && n == 1) {
        daemon_inherit(d, sockets[0].fd);
    }
    return rc;
}

static int serve(struct daemon *d, const struct flags *f, const sigset_t *set, int signals)
{
    struct claas_error err = ERR_INIT;
    limits_raise();
    int status = DAEMON_FAILED;
    if (inherit(d, &err) || daemon_start(d, &status, &err)) {
        log_line(LOG_ERROR, "server", "%s", err.message);
    } else {
        status = run_until_signal(d, f, signals);
        sigset_t ends;
        (void)sigemptyset(&ends);
        (void)sigaddset(&ends, SIGTERM);
        (void)sigaddset(&ends, SIGINT);
        (void)signalfd(signals, &ends, 0); /* a reload is of no use any more; of an open descriptor this cannot fail */
        daemon_drain(d, signals);
    }
    signals_release(set, signals);
    return status;
}

/* -t and -T. */
static int show(const struct daemon *d, const struct flags *f)
{
    struct claas_error err = ERR_INIT;
    struct buf text = BUF_INIT;
    int rc = f->print ? daemon_print(d, &text, &err) : 0;
    if (rc == 0 && (fputs(buf_str(&text), stdout) == EOF || fflush(stdout))) {
        rc = err_errno(&err, errno, "", "cannot write to standard output");
    }
    buf_clear(&text);
    if (rc) {
        log_line(LOG_ERROR, "server", "%s", err.message);
        return DAEMON_FAILED;
    }
    return DAEMON_OK;
}

int main(int argc, char **argv)
{
    struct flags f = { 0 };
    struct claas_error err = ERR_INIT;
    struct config *config = NULL;
    struct daemon *d = NULL;
    sigset_t set;
    const pid_t parent = getppid();
    int status = DAEMON_OK;
    if (flags_parse(argc, argv, &f, &status)) {
        return status;
    }
    if (config_load_overrides(f.file, f.sets, f.n_sets, &config, &err)) {
        log_line(LOG_ERROR, "config", "%s", err.message);
        return DAEMON_CONFIG;
    }
    log_configure(&config->log);
    int checks = f.test || f.print;
    int signals = checks ? -1 : signals_open(&set);
    if (!checks && signals < 0) {
        log_line(LOG_ERROR, "server", "cannot take signals");
        status = DAEMON_FAILED;
    } else if (f.with_parent && parent_watch(parent, &err)) {
        log_line(LOG_ERROR, "server", "%s", err.message);
        status = DAEMON_FAILED;
    } else if (daemon_new(config, &d, &status, &err)) {
        log_line(LOG_ERROR, "server", "%s", err.message);
    } else {
        status = checks ? show(d, &f) : serve(d, &f, &set, signals);
    }
    daemon_free(d);
    if (signals >= 0) {
        (void)close(signals); /* nothing can be lost */
    }
    config_free(config);
    return status;
}
