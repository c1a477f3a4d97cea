/* SPDX-License-Identifier: MIT */
/* The daemon as a process: start, readiness, the two ends. */
#include "config.h"

#include "crash.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_MS = 60000 };

/* Sweeps spare what is younger than a minute, the least that can be configured; store_age makes files older than that. */
#define CONFIG \
    "listen: 127.0.0.1:0\n" \
    "state_dir: %s/state\n" \
    "engine: {plugin: cpu, model: %s, model_name: tiny, threads: 1}\n" \
    "storage: {plugin: fs, root: %s}\n" \
    "retention: {grace: 60s}\n" \
    "limits: {default_tokens: 8}\n" \
    "jobs: {workers: 2, queue: 1000, queue_key: 1000}\n"

void host_prepare(struct host *h)
{
    struct buf text = BUF_INIT;
    struct claas_error err = ERR_INIT;
    char path[400];
    (void)snprintf(h->dir, sizeof h->dir, "%s/host%d", h->world->dir, h->number);
    (void)snprintf(path, sizeof path, "%s/claasd.yaml", h->dir);
    buf_addf(&text, CONFIG, h->dir, h->world->model, h->world->store);
    if (dir_make(h->dir, 0700, &err) || file_write_durable(path, text.data, text.len, 0600, &err)) {
        trial_fail(h->world, "%s", err.message);
    }
    buf_clear(&text);
    (void)snprintf(path, sizeof path, "%s/log", h->dir);
    h->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    (void)pthread_mutex_init(&h->ledger.mutex, NULL);
}

void host_start(struct host *h)
{
    char port[400];
    char program[400];
    char config[400];
    (void)snprintf(port, sizeof port, "%s/state/claasd.port", h->dir);
    (void)snprintf(program, sizeof program, "%s/claasd", h->world->build);
    (void)snprintf(config, sizeof config, "%s/claasd.yaml", h->dir);
    const char *sweeps = trial_draw(h->world, 3) ? "retention.sweep_every=150ms" : "retention.sweep_every=5ms";
    (void)unlink(port); /* of the life before */
    dprintf(h->log_fd, "---- round %u ----\n", h->world->round);
    h->pid = fork();
    if (h->pid < 0) {
        trial_fail(h->world, "cannot fork: %s", strerror(errno));
    }
    if (h->pid == 0) {
        (void)dup2(h->log_fd, 2);
        (void)dup2(h->log_fd, 1);
        (void)execl(program, program, "--exit-with-parent", "-c", config, "--set", sweeps, (char *)NULL);
        _exit(127);
    }
}

/* 1: its port is known. */
static int url_read(struct host *h)
{
    struct buf text = BUF_INIT;
    char path[400];
    (void)snprintf(path, sizeof path, "%s/state/claasd.port", h->dir);
    int there = file_read(path, 64, &text, NULL) == 0 && text.len > 1;
    if (there) {
        (void)snprintf(h->url, sizeof h->url, "http://127.0.0.1:%d", atoi(buf_str(&text)));
    }
    buf_clear(&text);
    return there;
}

static int takes_feedback(struct host *h)
{
    cJSON *o = NULL;
    struct asker *a = asker_new(h);
    long status = asker_ask(a, "GET", "/v1/jobs?limit=1", NULL, NULL, &o);
    cJSON_Delete(o);
    asker_free(a);
    return status == 200;
}

void host_wait_ready(struct host *h)
{
    int64_t until = clock_mono_ns() + READY_MS * INT64_C(1000000);
    while (!url_read(h) || !takes_feedback(h)) {
        int status = 0;
        if (waitpid(h->pid, &status, WNOHANG) == h->pid) {
            h->pid = 0;
            trial_fail(h->world, "daemon %d did not start: status %d", h->number, status);
        }
        if (clock_mono_ns() > until) {
            trial_fail(h->world, "daemon %d is not ready after %d ms", h->number, READY_MS);
        }
        trial_sleep_us(2000);
    }
}

void host_kill(struct host *h)
{
    int status = 0;
    if (h->pid == 0) {
        return;
    }
    (void)kill(h->pid, SIGKILL);
    if (waitpid(h->pid, &status, 0) != h->pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        h->pid = 0;
        trial_fail(h->world, "daemon %d had ended by itself: status %d", h->number, status);
    }
    h->pid = 0;
}

void host_stop(struct host *h)
{
    int status = 0;
    (void)kill(h->pid, SIGTERM);
    if (waitpid(h->pid, &status, 0) != h->pid || status != 0) {
        h->pid = 0;
        trial_fail(h->world, "daemon %d ended with status %d after SIGTERM", h->number, status);
    }
    h->pid = 0;
}
