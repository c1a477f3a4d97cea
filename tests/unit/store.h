/* SPDX-License-Identifier: MIT */
/* For tests over a real fs instance: a scratch root, the plugin's table, objects in memory
 * files. */
#ifndef UNIT_STORE_H
#define UNIT_STORE_H

#include "testing.h"

#include "base/file.h"

#include <claas/plugin.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char test_root[64];

static inline void test_root_make(void)
{
    (void)snprintf(test_root, sizeof test_root, "/tmp/claas-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(test_root));
}

static inline void test_root_remove(void)
{
    struct claas_error err = ERR_INIT;
    ck_ok(dir_remove(test_root, &err), err);
}

/* A memory file with these bytes. */
static inline int test_memory(const void *data, size_t n)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, data, n, 0), (ssize_t)n);
    return fd;
}

#endif
