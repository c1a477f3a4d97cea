/* SPDX-License-Identifier: MIT */
/* Configuration: a YAML file to a checked struct. Every refusal names file, line and column and
 * says what was expected. The core's own keys are one table (config_table), of the same kind as a
 * plugin's options; the sections of plugins are kept as written and checked against the plugin's
 * own table once that is known (config_section_values). */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/buf.h"
#include "base/log.h"
#include "host/option.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct config_node;   /* a piece of YAML with its position */
struct config_origin; /* where it came from */

/* A section with keys that are not the core's own. */
struct config_section {
    const char *name;               /* "engine", "storage", "inference", "training" */
    const char *plugin;             /* "" when the section is not there; always "" for training */
    const struct config_node *node; /* the map, or null */
};

enum config_keys { CONFIG_KEYS_AUTO, CONFIG_KEYS_ON, CONFIG_KEYS_OFF }; /* in the order of enum access_mode */
enum config_shares { CONFIG_SHARES_NONE, CONFIG_SHARES_PAUSE, CONFIG_SHARES_SLEEP };

struct config {
    const char *file;        /* as given */
    const char *listen;      /* as written, "127.0.0.1:8080" */
    const char *listen_path; /* of a Unix socket; null: the next two */
    const char *listen_host; /* "127.0.0.1" or "::1" */
    uint16_t listen_port;    /* 0: any free one */
    struct {
        enum config_keys keys;
        int open_to_network; /* 1: strangers may do anything */
        mode_t socket_mode;
    } access;
    struct {
        const char *certificate, *key; /* both null: plain HTTP */
    } tls;
    const char *state_dir;   /* absolute */
    const char *plugin_path; /* a directory, or null */
    struct log_settings log;
    struct config_section engine;
    struct config_section storage;
    struct config_section inference;
    struct config_section training;
    enum config_shares shares_device; /* inference.shares_device */
    const char *default_model;        /* "" = the base */
    const char *const
        *allowed_init_base_models; /* null-terminated; none: only the engine's own model */
    struct {
        int64_t max_count;
        int64_t max_age_ms;
    } rollouts;
    struct {
        int64_t max_count;
        int64_t max_age_ms;
    } feedback;                  /* records, with the rollouts they rate */
    struct {
        int64_t keep_serve;     /* serve blobs of the newest N versions */
        int64_t keep_daily;     /* days with one version kept each */
        int64_t keep_train;     /* moments of the newest N */
        int64_t grace_ms;       /* what is younger is never swept */
        int64_t sweep_every_ms; /* 0 = never by itself */
    } retention;
    struct {
        int64_t workers;        /* steps at one time */
        int64_t queue;          /* jobs that wait, in all */
        int64_t queue_key;      /* and of one key */
        int64_t waiters;        /* requests that wait for jobs */
        int64_t idempotency_ms; /* repeats are recognised */
        int64_t keep_ms;        /* jobs that have ended */
        int64_t audit_ms;       /* what the audit tells */
    } jobs;
    struct {
        int64_t body_bytes;
        int64_t connections, connections_per_address;
        int64_t prompt_tokens;      /* 0 = the model's context */
        int64_t response_tokens;    /* most max_tokens may be */
        int64_t default_tokens;     /* max_tokens when a request names none */
        int64_t batch_items;        /* feedback items in one request */
        int64_t lock_timeout_ms;    /* waiting for the adapter's turn */
        int64_t drain_timeout_ms;   /* waiting for answers to end before inference is paused */
        int64_t request_timeout_ms; /* chat, score */
        int64_t train_timeout_ms;   /* one step */
        int64_t idle_timeout_ms;    /* a silent connection */
        int64_t stop_timeout_ms;    /* requests in progress when the daemon stops */
    } limits;
    struct option_values values;   /* all of the core's keys, by config_table() */
    struct config_node *root;      /* owned */
    struct config_origin *origins; /* owned: files the nodes came from */
    char *text;                    /* owned: parts of listen */
};

/* All keys of the core with type, default, bounds and help: the truth for the sample file and the
 * page. Names of nested keys carry dots. Lives for ever. */
const struct option_table *config_table(void);

/* Reads and checks. On failure INVALID (NOT_FOUND, FORBIDDEN when it cannot be read), the message
 * beginning with "FILE:LINE:COLUMN: ", and *out is null. Opens nothing else. Relative paths in the
 * file are relative to its directory. */
int config_load(const char *path, struct config **out, struct claas_error *err);

/* The same, with `sets` ("engine.model=/x.gguf", "listen=127.0.0.1:0") laid over the file, the last
 * one winning. The part behind = is read as YAML; relative paths there are relative to the working
 * directory. Positions in them are named
 * "--set KEY:LINE:COLUMN". */
int config_load_overrides(const char *path, const char *const *sets, size_t n_sets,
                          struct config **out, struct claas_error *err);

/* The same, from n bytes in memory; `name` is the file for messages, `dir` what relative paths are
 * joined to. */
int config_parse(const char *text, size_t n, const char *name, const char *dir, struct config **out,
                 struct claas_error *err);

/* 1 if a reload may change the row of config_table(). */
int config_reloadable(size_t row);

/* Makes `config`, read while another is in use, fit to take its place: what a reload may not change becomes as it is in
 * `boot`, the one of the start, which must outlive it; `fixed` (may be null) is told each such key that differs. */
typedef void (*config_fixed_fn)(void *ctx, const char *key);
void config_rebase(struct config *config, const struct config *boot, config_fixed_fn fixed, void *ctx);

/* Null is fine. */
void config_free(struct config *config);

/* The section's values by a plugin's table (which must outlive them): unknown keys, wrong types,
 * missing required ones and literal secrets are INVALID with their position. Keys of the core in
 * that section (plugin, shares_device) are left out. A section that is not there gives the
 * defaults. */
int config_section_values(const struct config *config, const struct config_section *section,
                          const struct option_table *table, struct option_values *out,
                          struct claas_error *err);

/* 1 if the engine's own instance answers: inference is left out, or names the same plugin without
 * options of its own. */
int config_inference_is_engine(const struct config *config);

/* Puts "FILE:LINE:COLUMN: " of `key` in the section (of the section itself when key is "" or not
 * there) before the message: for refusals that came later, such as a plugin that is not there or
 * its own check. Returns the code. */
int config_section_blame(const struct config *config, const struct config_section *section,
                         const char *key, struct claas_error *err);

/* The effective configuration as YAML: the core's keys with defaults filled in, then each section's
 * values (null where the plugin's table is not known: as written). Secrets show only where they
 * come from. */
struct config_print_section {
    const struct config_section *section;
    const struct option_values *values;
};
int config_print(const struct config *config, const struct config_print_section *sections, size_t n,
                 struct buf *out, struct claas_error *err);

#endif
