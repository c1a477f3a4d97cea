/* SPDX-License-Identifier: MIT */
/* The fs plugin, but listing contents takes as long as the test wants: it makes the file named by
 * CLAAS_SLOWFS and waits until somebody removes it, or until it is told to stop. And it stands still for good at a put. */
#include "config.h"

#undef claas_plugin_entry /* that of fs goes by another name here */

#include <claas/plugin.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const struct claas_plugin *fs_entry(uint32_t host_abi);

static const struct claas_plugin *fs;

static int slow_list(void *self, const char *prefix, const char *after, uint32_t limit,
                     int (*each)(void *ctx, const char *key, const struct claas_object *object),
                     void *ctx, const struct claas_call *call, struct claas_error *err)
{
    const char *file = getenv("CLAAS_SLOWFS");
    if (file && prefix && strcmp(prefix, "blobs/") == 0) {
        int fd = open(file, O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0) {
            (void)close(fd); /* it is empty: nothing can be lost */
        }
        while (access(file, F_OK) == 0 && (!call || call->left_ms(call) > 0)) {
            const struct timespec while_ = { .tv_nsec = 5000000 };
            (void)nanosleep(&while_, NULL); /* looked at again in any case */
        }
    }
    return fs->storage->list(self, prefix, after, limit, each, ctx, call, err);
}

/* At the put that CLAAS_STALL names ("before log/", "behind log/", "before blobs/") it makes the file CLAAS_STALLED and
 * stands still for good: whoever waits for that kills the process. */
static void stall(const char *where, const char *key)
{
    const char *at = getenv("CLAAS_STALL");
    const char *file = getenv("CLAAS_STALLED");
    size_t n = strlen(where);
    if (!at || !file || strncmp(at, where, n) != 0 || strncmp(key, at + n, strlen(at + n)) != 0) {
        return;
    }
    int fd = open(file, O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        (void)close(fd); /* it is empty: nothing can be lost */
    }
    for (;;) {
        (void)pause();
    }
}

static int slow_put(void *self, const char *key, const struct claas_put *put, const struct claas_call *call,
                    struct claas_error *err)
{
    stall("before ", key);
    int rc = fs->storage->put(self, key, put, call, err);
    stall("behind ", key);
    return rc;
}

const struct claas_plugin *claas_plugin_entry(uint32_t host_abi)
{
    static struct claas_plugin plugin;
    static struct claas_storage storage;
    fs = fs_entry(host_abi);
    if (!fs) {
        return NULL;
    }
    storage = *fs->storage;
    storage.list = slow_list;
    storage.put = slow_put;
    plugin = *fs;
    plugin.name = "slowfs";
    plugin.storage = &storage;
    return &plugin;
}
