/* SPDX-License-Identifier: MIT */
/* What the files of this room share: modules, instances, and how a call begins and ends. */
#ifndef HOST_INTERNAL_H
#define HOST_INTERNAL_H

#include "host/host.h"

#include <pthread.h>

struct host_extension {
    const char *id;
    const void *table;
};

enum { HOST_EXTENSIONS = 16, HOST_METRICS = 256, HOST_METRIC_NAME = 64 };

/* Lock order: host.lock before nothing; module.lock before nothing; instance locks before nothing:
 * each is held alone and never while a plugin runs. The serial turn (module.busy) is a flag under
 * module.lock, not a held mutex. */
struct host {
    char *search;         /* directories with colons between */
    pthread_mutex_t lock; /* modules */
    struct host_module *modules;
    struct host_extension extensions[HOST_EXTENSIONS]; /* fixed before the first open */
    size_t n_extensions;
};

struct host_module {
    struct host *host;
    struct host_module *next;
    char *name;
    char *file;                 /* or null */
    struct claas_plugin plugin; /* clamped copy; its kinds point to the copies below */
    struct claas_engine engine;
    struct claas_storage storage;
    struct claas_inference inference;
    struct claas_text text;
    struct option_table options;
    uint32_t offered;
    pthread_mutex_t lock; /* busy, users */
    pthread_cond_t turn;
    int busy;          /* a serial module is being called */
    unsigned users[4]; /* open instances by kind: engine, storage, inference, text */
};

struct host_metric {
    char name[HOST_METRIC_NAME];
    int32_t kind;
    double value;
};

struct host_instance {
    struct claas_host abi; /* first: what the plugin sees */
    struct host_module *module;
    char *name;
    char *scratch;
    char *room; /* "plugin NAME", for log lines */
    uint32_t kinds;
    void *self;
    const struct claas_engine *engine; /* the module's, or all null when not opened as that kind */
    const struct claas_storage *storage;
    const struct claas_inference *inference;
    const struct claas_text *text;
    pthread_mutex_t lock; /* calls, closing, info, have_info, metrics */
    pthread_cond_t idle;
    unsigned calls;
    int closing;
    int have_info;
    struct host_engine_info info;
    struct option_table settings;
    struct option_table creation;
    struct host_metric metrics[HOST_METRICS];
    size_t n_metrics;
    int metric_warned;
    pthread_mutex_t values_lock; /* values */
    struct option_values values;
};

enum host_tag { HOST_QUICK, HOST_CALL };

/* A call in progress. */
struct host_use {
    struct host_instance *instance;
    const char *kind;
    const char *function;
    const struct claas_call *call; /* may be null */
    int serial;                    /* holds the module's turn */
    struct claas_error err;        /* for the plugin to fill */
};

/* Checks that the function is there, counts the call and takes the serial turn. On failure nothing
 * is held. */
int host_use_begin(struct host_use *use, struct host_instance *instance, const char *kind,
                   const char *function, int there, enum host_tag tag,
                   const struct claas_call *call, struct claas_error *err);

/* Gives the turn back and uncounts; returns the plugin's code made one of the list, with *err
 * filled from use->err. */
int host_use_end(struct host_use *use, int rc, struct claas_error *err);
/* The same in two parts, for generate. */
int host_use_result(const struct host_use *use, int rc, struct claas_error *err);
void host_use_leave(struct host_use *use);

/* Makes *from, filled by a plugin that returned rc (not 0), fit to be shown: a listed code, one
 * line of UTF-8. */
int host_error_settle(const char *plugin, const char *function, int rc,
                      const struct claas_error *from, struct claas_error *err);

/* A plugin that is told to stop says CANCELLED; whether it was the time that ran out only the token
 * knows. Returns rc, or TIMEOUT with *err filled. */
int host_use_late(const struct host_use *use, int rc, struct claas_error *err);

/* The serial turn of a module; does nothing for PARALLEL ones. */
int host_turn_take(struct host_module *module, const struct claas_call *call,
                   struct claas_error *err);
void host_turn_give(struct host_module *module);

/* Copies min(size, own) bytes of what begins with its size into *out, zeroed before. */
void host_clamp(void *out, size_t own, const void *in, uint32_t size);

/* load.c: maps NAME.so of the search path and asks its door. *out_file on the heap. */
int host_file_load(const char *search, const char *name, const struct claas_plugin **out_plugin,
                   char **out_file, struct claas_error *err);

/* module.c: 1 if [a-z][a-z0-9-]*, at most 64 bytes. */
int host_name_ok(const char *name);

#endif
