/* SPDX-License-Identifier: MIT */
/* Does what a sanitizer must not let pass, by name: proves that silence of the others means something. */
#include "config.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *volatile kept;
static volatile int number = INT_MAX;
static int shared;

static void *count(void *arg)
{
    (void)arg;
    for (int i = 0; i < 100000; i++) {
        shared++;
    }
    return NULL;
}

static void race(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, count, NULL) == 0) {
        (void)count(NULL);
        (void)pthread_join(thread, NULL);
    }
}

int main(int argc, char **argv)
{
    const char *fault = argc > 1 ? argv[1] : "";
    kept = malloc(16);
    if (!kept) {
        return 0; /* which fails the test */
    }
    if (strcmp(fault, "leak") == 0) {
        kept = NULL;
    } else if (strcmp(fault, "overrun") == 0) {
        kept[argc + 14] = 1;
    } else if (strcmp(fault, "use after free") == 0) {
        free(kept);
        kept[0] = 1;
    } else if (strcmp(fault, "signed overflow") == 0) {
        number = number + 1;
    } else if (strcmp(fault, "race") == 0) {
        race();
    }
    free(kept);
    return 0;
}
