/* SPDX-License-Identifier: MIT */
/* claasd: flags, signals, exit status. Stays in the foreground. */
#include <config.h>

#include "server/daemon.h"

#include "base/err.h"
#include "base/log.h"

#include <claas/version.h>
#include <errno.h>
#include <getopt.h>
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

/* From now on a signal ends the process at once: the second one of an impatient user. */
static void signals_release(const sigset_t *set)
{
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGHUP, SIG_DFL);
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

static int run_until_signal(struct daemon *d, int signals)
{
    struct claas_error err = ERR_INIT;
    for (;;) {
        struct pollfd p[2] = { { .fd = signals, .events = POLLIN }, { .fd = daemon_failed_fd(d), .events = POLLIN } };
        if (poll(p, 2, -1) < 0 && errno != EINTR) {
            return DAEMON_FAILED;
        }
        if (p[1].revents) {
            int status = daemon_failure(d, &err);
            log_line(LOG_ERROR, "server", "%s", err.message);
            return status;
        }
        struct signalfd_siginfo info;
        if (p[0].revents && read(signals, &info, sizeof info) == sizeof info) {
            log_line(LOG_INFO, "server", "stopping: signal %u", info.ssi_signo);
            return DAEMON_OK;
        }
    }
}

static int serve(struct daemon *d, const struct flags *f, const sigset_t *set, int signals)
{
    struct claas_error err = ERR_INIT;
    if (f->with_parent && prctl(PR_SET_PDEATHSIG, SIGTERM)) {
        log_line(LOG_ERROR, "server", "cannot watch the parent process");
        return DAEMON_FAILED;
    }
    limits_raise();
    int status = DAEMON_FAILED;
    if (daemon_start(d, &err)) {
        log_line(LOG_ERROR, "server", "%s", err.message);
    } else {
        status = run_until_signal(d, signals);
    }
    signals_release(set);
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
