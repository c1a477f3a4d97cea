/* SPDX-License-Identifier: MIT */
/* A fuzz target: one C file that defines LLVMFuzzerTestOneInput and feeds the bytes to one reader of ours. Linked with
 * driver.c it replays files and mutates them by itself; linked with libFuzzer (make fuzz) it is guided by coverage. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* The standard entry. Returns 0; whatever is wrong with the reader ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* What must hold for every input. Not assert(): it holds under NDEBUG too. */
#define FUZZ_TRUE(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #what); \
            abort(); \
        } \
    } while (0)

/* A reader that returned rc left a fitting error behind: a code and a message when it failed. */
#define FUZZ_ERROR(rc, err) FUZZ_TRUE((rc) == 0 || ((err).code == (rc) && (err).message[0] != '\0'))

/* The bytes as a file in memory for readers that want a path, which is written to `path`. Close the descriptor. */
static inline int fuzz_file(const uint8_t *data, size_t n, char path[32])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_TRUE(fd >= 0 && (n == 0 || pwrite(fd, data, n, 0) == (ssize_t)n));
    (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

#endif
