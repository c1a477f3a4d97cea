/* SPDX-License-Identifier: MIT */
/* Plugins for the loader's tests: one source, built once for each thing that can be wrong with a file. The good one is a
 * storage that holds nothing. */
#include <claas/plugin.h>

#ifndef LOADABLE_NAME
#define LOADABLE_NAME "good"
#endif
#ifndef LOADABLE_ABI
#define LOADABLE_ABI CLAAS_ABI
#endif
#ifndef LOADABLE_SIZE
#define LOADABLE_SIZE sizeof(struct claas_plugin)
#endif

static int loadable_open(const struct claas_host *host, uint32_t kinds, const struct claas_value *values,
                         const struct claas_call *call, void **out_self, struct claas_error *err)
{
    (void)kinds;
    (void)values;
    (void)call;
    (void)err;
    host->log(host, CLAAS_LOG_DEBUG, "open");
    *out_self = NULL;
    return 0;
}

static void loadable_close(void *self)
{
    (void)self;
}

static int loadable_probe(void *self, uint32_t *out_caps, const struct claas_call *call, struct claas_error *err)
{
    (void)self;
    (void)call;
    (void)err;
    *out_caps = 0;
    return 0;
}

static int loadable_put(void *self, const char *key, const struct claas_put *put, const struct claas_call *call,
                        struct claas_error *err)
{
    (void)self;
    (void)key;
    (void)put;
    (void)call;
    (void)err;
    return CLAAS_ERR_EXHAUSTED;
}

static int loadable_get(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd,
                        struct claas_object *out, const struct claas_call *call, struct claas_error *err)
{
    (void)self;
    (void)key;
    (void)from;
    (void)bytes;
    (void)fd;
    (void)out;
    (void)call;
    (void)err;
    return CLAAS_ERR_NOT_FOUND;
}

static int loadable_head(void *self, const char *key, struct claas_object *out, const struct claas_call *call,
                         struct claas_error *err)
{
    (void)self;
    (void)key;
    (void)out;
    (void)call;
    (void)err;
    return CLAAS_ERR_NOT_FOUND;
}

static int loadable_list(void *self, const char *prefix, const char *after, uint32_t limit,
                         int (*each)(void *ctx, const char *key, const struct claas_object *object), void *ctx,
                         const struct claas_call *call, struct claas_error *err)
{
    (void)self;
    (void)prefix;
    (void)after;
    (void)limit;
    (void)each;
    (void)ctx;
    (void)call;
    (void)err;
    return 0;
}

static int loadable_remove(void *self, const char *const *keys, uint32_t n, const struct claas_call *call,
                           struct claas_error *err)
{
    (void)self;
    (void)keys;
    (void)n;
    (void)call;
    (void)err;
    return 0;
}

static const struct claas_option loadable_options[] = {
    { "root", NULL, NULL, "a directory", 1, 0, CLAAS_PATH, 0 },
    { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
};

static const struct claas_storage loadable_storage = {
    .size = sizeof loadable_storage,
    .probe = loadable_probe,
    .put = loadable_put,
    .get = loadable_get,
    .head = loadable_head,
    .list = loadable_list,
    .remove = loadable_remove,
};

static const struct claas_plugin loadable_plugin = {
    .size = LOADABLE_SIZE,
    .abi = LOADABLE_ABI,
    .name = LOADABLE_NAME,
    .version = "1",
    .summary = "a store that holds nothing",
    .licence = "MIT",
    .option_size = sizeof(struct claas_option),
    .options = loadable_options,
    .open = loadable_open,
    .close = loadable_close,
    .storage = &loadable_storage,
};

#if defined(LOADABLE_NO_ENTRY)
int loadable_other(void);
int loadable_other(void)
{
    return loadable_plugin.size != 0;
}
#elif defined(LOADABLE_BORROWED)
/* The door is in a library this one uses. */
int door_help(void);
int loadable_other(void);
int loadable_other(void)
{
    return door_help() + (loadable_plugin.size != 0);
}
#else
const struct claas_plugin *claas_plugin_entry(uint32_t host_abi)
{
    (void)host_abi;
#ifdef LOADABLE_NULL
    return loadable_plugin.size == 0 ? &loadable_plugin : NULL;
#else
    return &loadable_plugin;
#endif
}
#endif

#ifdef LOADABLE_DOOR
__attribute__((visibility("default"))) int door_help(void);
int door_help(void)
{
    return 1;
}
#endif
