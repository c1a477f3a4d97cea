/* SPDX-License-Identifier: MIT */
/* Runs trials in parallel and counts:
 *
 *     test_crash [--runs N] [--pairs N] [--from SEED] [--seed SEED [--pair]] [--parallel N]
 *
 * A run is one kill with the check behind it; a trial makes several of them in one directory. --runs are of one daemon,
 * --pairs of two on one store. --seed repeats one trial, alone. Where it fails, its directory stays. */
#include "config.h"

#include "crash.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"

#include <curl/curl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 8, TELL_S = 20 };

struct plan {
    unsigned runs, pairs;
    uint64_t from;
    int one, pair; /* --seed, --pair */
    unsigned parallel;
    const char *build;
    char dir[200], model[240];
    struct tally *tally;
};

static pid_t trial_start(const struct plan *p, uint64_t seed, int n_hosts, unsigned rounds)
{
    static struct world w;
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid != 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    w = (struct world){ .seed = seed, .rounds = rounds, .n_hosts = n_hosts, .model = p->model, .build = p->build,
                        .tally = p->tally };
    (void)snprintf(w.dir, sizeof w.dir, "%s/%s%llu", p->dir, n_hosts > 1 ? "pair" : "trial", (unsigned long long)seed);
    trial_run(&w);
    _exit(0);
}

/* Waits for one trial; 1 if it failed. */
static int trial_end(void)
{
    int status = 0;
    return wait(&status) < 0 || status != 0;
}

static void tell(const struct plan *p, unsigned runs, unsigned failed, int64_t began)
{
    (void)printf("# %u of %u runs, %u trials failed, %lld s\n", atomic_load(&p->tally->runs), runs, failed,
                 (long long)((clock_mono_ns() - began) / 1000000000));
    (void)fflush(stdout);
}

/* `runs` of trials with n_hosts daemons; how many trials failed. */
static unsigned trials(const struct plan *p, unsigned runs, int n_hosts)
{
    unsigned n = (runs + ROUNDS - 1) / ROUNDS;
    unsigned going = 0;
    unsigned failed = 0;
    int64_t began = clock_mono_ns();
    int64_t told = began;
    for (unsigned i = 0; i < n || going > 0;) {
        if (i < n && going < p->parallel) {
            unsigned rounds = i + 1 < n ? ROUNDS : runs - i * ROUNDS;
            failed += trial_start(p, p->from + i, n_hosts, rounds) < 0;
            going++;
            i++;
            continue;
        }
        failed += (unsigned)trial_end();
        going--;
        if (clock_mono_ns() - told > TELL_S * INT64_C(1000000000)) {
            told = clock_mono_ns();
            tell(p, runs, failed, began);
        }
    }
    return failed;
}

static void tally_tell(const struct tally *t)
{
    static const char *const names[] = {
#define NAME(name, text) text,
        MOMENTS_TABLE(NAME)
#undef NAME
    };
    (void)printf("# kills:");
    for (int i = 0; i < MOMENTS; i++) {
        (void)printf(" %s %u,", names[i], atomic_load(&t->kills[i]));
    }
    (void)printf(" after the work %u\n# at the ends of trials: %u answers, %u jobs (%u failed by conflict), %u versions\n",
                 atomic_load(&t->late), atomic_load(&t->answers), atomic_load(&t->jobs), atomic_load(&t->failed_jobs),
                 atomic_load(&t->versions));
}

/* One line of TAP for trials with so many daemons. */
static int series(struct plan *p, int number, unsigned runs, int n_hosts)
{
    unsigned lengths[2] = { atomic_load(&p->tally->start_ms), atomic_load(&p->tally->work_ms) };
    memset(p->tally, 0, sizeof *p->tally);
    atomic_store(&p->tally->start_ms, lengths[0]);
    atomic_store(&p->tally->work_ms, lengths[1]);
    int64_t began = clock_mono_ns();
    unsigned failed = trials(p, runs, n_hosts);
    (void)printf("%s %d - %u runs of %s, killed and started again, from seed %llu\n", failed ? "not ok" : "ok", number, runs,
                 n_hosts > 1 ? "two daemons on one store" : "one daemon", (unsigned long long)p->from);
    tell(p, runs, failed, began);
    tally_tell(p->tally);
    return failed != 0;
}

static unsigned number(const char *text)
{
    char *end = NULL;
    unsigned long n = strtoul(text, &end, 10);
    if (!*text || *end || n > 1000000000) {
        fprintf(stderr, "test_crash: '%s' is no number\n", text);
        exit(2);
    }
    return (unsigned)n;
}

static void plan_read(int argc, char **argv, struct plan *p)
{
    static const struct option options[] = {
        { "runs", 1, NULL, 'r' },     { "pairs", 1, NULL, 'p' }, { "from", 1, NULL, 'f' }, { "seed", 1, NULL, 's' },
        { "parallel", 1, NULL, 'j' }, { "pair", 0, NULL, '2' },  { NULL, 0, NULL, 0 },
    };
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'r': p->runs = number(optarg); break;
        case 'p': p->pairs = number(optarg); break;
        case 's': p->one = 1; /* fall through */
        case 'f': p->from = number(optarg); break;
        case 'j': p->parallel = number(optarg); break;
        case '2': p->pair = 1; break;
        default: exit(2);
        }
    }
    if (p->one) {
        p->runs = p->pair ? 0 : ROUNDS;
        p->pairs = p->pair ? ROUNDS : 0;
    }
}

/* The first trial is for its length only. */
static int measure(const struct plan *p)
{
    if (trial_start(p, p->from, 1, 0) < 0 || trial_end()) {
        (void)printf("Bail out! A daemon that nobody kills does not work\n");
        return -1;
    }
    (void)printf("# a start takes %u ms, the clients' work %u ms\n", atomic_load(&p->tally->start_ms),
                 atomic_load(&p->tally->work_ms));
    return 0;
}

int main(int argc, char **argv)
{
    struct plan p = { .runs = 32, .pairs = 8, .from = 1, .parallel = (unsigned)sysconf(_SC_NPROCESSORS_ONLN) };
    const char *base = getenv("TMPDIR");
    int failed = 0;
    int n = 0;
    plan_read(argc, argv, &p);
    p.build = getenv("abs_top_builddir") ? getenv("abs_top_builddir") : ".";
    char plugins[300];
    (void)snprintf(plugins, sizeof plugins, "%s/.libs", p.build);
    (void)setenv("CLAAS_PLUGIN_PATH", plugins, 0);
    (void)snprintf(p.dir, sizeof p.dir, "%s/claas-crash-XXXXXX", base && *base ? base : "/tmp");
    p.tally = mmap(NULL, sizeof *p.tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p.tally == MAP_FAILED || !mkdtemp(p.dir) || curl_global_init(CURL_GLOBAL_DEFAULT)) {
        (void)printf("Bail out! Cannot make '%s'\n", p.dir);
        return 1;
    }
    (void)snprintf(p.model, sizeof p.model, "%s/tiny.gguf", p.dir);
    failed = model_make(p.model) || measure(&p);
    if (!failed && p.runs) {
        failed |= series(&p, ++n, p.runs, 1);
    }
    if (!failed && p.pairs) {
        failed |= series(&p, ++n, p.pairs, 2);
    }
    (void)printf("1..%d\n", n);
    if (!failed) {
        (void)dir_remove(p.dir, NULL);
    }
    return failed;
}
