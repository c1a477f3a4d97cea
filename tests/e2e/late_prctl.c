/* SPDX-License-Identifier: MIT */
/* Preloaded: a process that asks for a signal at its parent's end is held up until the parent has ended, so that the
 * request comes too late. Makes the file that LATE_PRCTL names when it waits. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((visibility("default"))) int prctl(int option, ...); /* in the place of the library's */

static void wait_for_end(void)
{
    const struct timespec moment = { .tv_nsec = 10000000 };
    const char *file = getenv("LATE_PRCTL");
    FILE *f = file != NULL ? fopen(file, "we") : NULL;
    pid_t parent = getppid();
    if (f != NULL) {
        (void)fclose(f); /* nothing was written */
    }
    for (int i = 0; i < 2000 && getppid() == parent; i++) {
        (void)nanosleep(&moment, NULL);
    }
}

int prctl(int option, ...)
{
    unsigned long args[4];
    va_list list;
    va_start(list, option);
    for (int i = 0; i < 4; i++) {
        args[i] = va_arg(list, unsigned long);
    }
    va_end(list);
    if (option == PR_SET_PDEATHSIG) {
        wait_for_end();
    }
    return (int)syscall(SYS_prctl, option, args[0], args[1], args[2], args[3]);
}
