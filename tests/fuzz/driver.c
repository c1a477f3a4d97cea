/* SPDX-License-Identifier: MIT */
/* Runs a fuzz target without libFuzzer: `fuzz_TARGET [-r RUNS] [-s SEED] [-k FILE] FILE|DIRECTORY…` feeds every file to
 * it, then RUNS mutations of them drawn from SEED. An input that takes ten seconds ends the process, and one that wants
 * 2 GB gets no memory. With -k, FILE holds the input that was fed last, also after a crash: add it to the corpus. */
#include "config.h"

#include "fuzz.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

enum { INPUT_MAX = 1 << 16, INPUT_SECONDS = 10, CORPUS_MAX = 10000 };

struct input {
    uint8_t *data;
    size_t n;
};

static struct input corpus[CORPUS_MAX];
static size_t n_corpus;
static uint8_t *kept; /* of -k: a map of the file, 8 bytes longer than an input */
static uint64_t seed = 1, drawn;

static void die(const char *what, const char *name)
{
    fprintf(stderr, "%s '%s': %s\n", what, name, strerror(errno));
    exit(2);
}

static void corpus_add(const char *path)
{
    struct stat st;
    struct buf b = BUF_INIT;
    struct claas_error err = ERR_INIT;
    if (stat(path, &st) != 0) {
        die("cannot look at", path);
    }
    if (S_ISDIR(st.st_mode)) {
        struct dirent **names;
        int n = scandir(path, &names, NULL, alphasort); /* sorted: the same seed means the same inputs */
        if (n < 0) {
            die("cannot list", path);
        }
        for (int i = 0; i < n; i++) {
            char *inner = path_join(path, names[i]->d_name);
            if (names[i]->d_name[0] != '.') {
                corpus_add(inner);
            }
            free(inner);
            free(names[i]);
        }
        free(names);
    } else if (file_read(path, INPUT_MAX, &b, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(2);
    } else if (n_corpus < CORPUS_MAX) {
        corpus[n_corpus].n = b.len;
        corpus[n_corpus++].data = (uint8_t *)buf_take(&b);
    }
}

/* Feeds a copy of exactly n bytes, so that a sanitizer sees what is read behind them. */
static void feed(const uint8_t *data, size_t n)
{
    if (kept) {
        uint64_t bytes = n;
        memcpy(kept, &bytes, sizeof bytes);
        memcpy(kept + sizeof bytes, data, n);
    }
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) {
        die("no memory for", "an input");
    }
    memcpy(copy, data, n);
    (void)alarm(INPUT_SECONDS); /* its signal ends the process */
    (void)LLVMFuzzerTestOneInput(copy, n);
    (void)alarm(0);
    free(copy);
}

/* ---- mutations ---- */

static uint64_t draw(uint64_t below)
{
    return below ? rng_bits(seed, 0xF022, drawn++) % below : 0;
}

static const struct input *draw_input(void)
{
    return &corpus[draw(n_corpus)];
}

/* Values at which readers break: borders of counts, lengths and signs. */
static uint64_t draw_number(void)
{
    static const uint64_t borders[] = { 0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                                        INT64_MAX, 0x8000000000000000, UINT64_MAX, UINT64_MAX - 31 };
    return draw(3) ? borders[draw(sizeof borders / sizeof *borders)] : rng_bits(seed, 0xF022, drawn++);
}

/* Room for m bytes at `at`, or 0 where there is none. */
static int open_gap(uint8_t *data, size_t *n, size_t at, size_t m)
{
    if (m > INPUT_MAX - *n) {
        return 0;
    }
    memmove(data + at + m, data + at, *n - at);
    *n += m;
    return 1;
}

static void mutate_once(uint8_t *data, size_t *n)
{
    size_t at = draw(*n + 1);
    size_t m = draw(draw(4) ? 16 : 4096) + 1;
    size_t behind = *n - at;
    const struct input *other = draw_input();
    switch (draw(8)) {
    case 0: /* one bit */
        if (behind > 0) {
            data[at] ^= (uint8_t)(1U << draw(8));
        }
        break;
    case 1: /* one byte */
        if (behind > 0) {
            data[at] = (uint8_t)draw(256);
        }
        break;
    case 2: /* a number, in the byte order of our formats */
        m = (size_t)1 << draw(4);
        if (m <= behind) {
            uint64_t v = draw_number();
            memcpy(data + at, &v, m);
        }
        break;
    case 3: /* a hole */
        m = m < behind ? m : behind;
        memmove(data + at, data + at + m, behind - m);
        *n -= m;
        break;
    case 4: /* the same again */
        m = m < behind ? m : behind;
        if (open_gap(data, n, at, m)) {
            memcpy(data + at, data + at + m, m);
        }
        break;
    case 5: { /* a piece of another input */
        size_t from = draw(other->n + 1);
        m = m < other->n - from ? m : other->n - from;
        if (open_gap(data, n, at, m)) {
            memcpy(data + at, other->data + from, m);
        }
        break;
    }
    case 6: /* the same letter over and over: depth, long names */
        if (open_gap(data, n, at, m)) {
            memset(data + at, at > 0 ? data[at - 1] : '[', m);
        }
        break;
    default: /* the end is missing */
        *n = draw(16) ? *n : at;
        break;
    }
}

static void mutate(long runs)
{
    static uint8_t data[INPUT_MAX];
    for (long i = 0; i < runs; i++) {
        const struct input *from = draw_input();
        size_t n = from->n;
        memcpy(data, from->data, n);
        for (uint64_t left = draw(8) + 1; left > 0; left--) {
            mutate_once(data, &n);
        }
        feed(data, n);
    }
}

/* ---- the program ---- */

static void keep_in(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, INPUT_MAX + 8) != 0) {
        die("cannot make", path);
    }
    void *at = mmap(NULL, INPUT_MAX + 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        die("cannot map", path);
    }
    (void)close(fd); /* the map stays */
    kept = at;
}

/* Sanitizers reserve address space without end. */
static void limit_memory(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    const struct rlimit limit = { .rlim_cur = 2000000000, .rlim_max = 2000000000 };
    if (setrlimit(RLIMIT_AS, &limit) != 0) {
        die("cannot limit", "memory");
    }
#endif
}

int main(int argc, char **argv)
{
    long runs = 0;
    int c;
    limit_memory();
    while ((c = getopt(argc, argv, "r:s:k:")) != -1) {
        switch (c) {
        case 'r': runs = strtol(optarg, NULL, 10); break;
        case 's': seed = strtoull(optarg, NULL, 10); break;
        case 'k': keep_in(optarg); break;
        default: return 2;
        }
    }
    for (; optind < argc; optind++) {
        corpus_add(argv[optind]);
    }
    if (n_corpus == 0) {
        fprintf(stderr, "there is no input to begin with\n");
        return 2;
    }
    for (size_t i = 0; i < n_corpus; i++) {
        feed(corpus[i].data, corpus[i].n);
    }
    mutate(runs);
    printf("%zu inputs, %ld mutations of seed %llu\n", n_corpus, runs, (unsigned long long)seed);
    for (size_t i = 0; i < n_corpus; i++) {
        free(corpus[i].data);
    }
    return 0;
}
