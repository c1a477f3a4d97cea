/* SPDX-License-Identifier: MIT */
/* The core's own keys, once: enum and table; through config_table() the sample file and the page are
 * held to them. */
#ifndef CONFIG_KEYS_H
#define CONFIG_KEYS_H

#include <claas/option.h>

#define KEYS_ANY (1, 0)
#define KEYS_BOTH(min, max) min, max
#define KEYS_HOUR 3600000.0
#define KEYS_DAY (24 * KEYS_HOUR)

/* X(id, name, type, default, choices, (min, max), help) */
#define KEYS_TABLE(X) \
    X(LISTEN, "listen", CLAAS_TEXT, "127.0.0.1:8080", NULL, KEYS_ANY, \
      "address and port of the HTTP API; beyond loopback, keys must be on; port 0 takes any free one") \
    X(ACCESS_KEYS, "access.keys", CLAAS_TEXT, "auto", "auto|on|off", KEYS_ANY, \
      "whether requests need an API key; auto asks for one as soon as one has been made") \
    X(ACCESS_OPEN_TO_NETWORK, "access.open_to_network", CLAAS_BOOL, "false", NULL, KEYS_ANY, \
      "allow strangers from other machines to do anything, without a key") \
    X(ACCESS_SOCKET_MODE, "access.socket_mode", CLAAS_TEXT, "0660", "0600|0660|0666", KEYS_ANY, \
      "who may connect to a Unix socket, as permissions of its file") \
    X(TLS_CERTIFICATE, "tls.certificate", CLAAS_PATH, NULL, NULL, KEYS_ANY, \
      "certificate with its chain, PEM; with it HTTPS is spoken") \
    X(TLS_KEY, "tls.key", CLAAS_PATH, NULL, NULL, KEYS_ANY, \
      "its private key, PEM") \
    X(STATE_DIR, "state_dir", CLAAS_PATH, "/var/lib/claas", NULL, KEYS_ANY, \
      "directory for rollouts, caches and the lock of this daemon") \
    X(PLUGIN_PATH, "plugin_path", CLAAS_PATH, NULL, NULL, KEYS_ANY, \
      "directory of the plugins, if not the built-in one") \
    X(LOG_LEVEL, "log.level", CLAAS_TEXT, "info", "error|warning|info|debug|trace", KEYS_ANY, \
      "how much is written to standard error") \
    X(LOG_LEVELS, "log.levels", CLAAS_JSON, NULL, NULL, KEYS_ANY, \
      "levels of single subsystems, such as {serving: debug}") \
    X(LOG_FORMAT, "log.format", CLAAS_TEXT, "auto", "auto|plain|journal|json", KEYS_ANY, \
      "form of a line; auto is journal under the journal, else plain") \
    X(ENGINE_PLUGIN, "engine.plugin", CLAAS_TEXT, NULL, NULL, KEYS_ANY, \
      "plugin that trains; without an engine, claasd serves and records only") \
    X(STORAGE_PLUGIN, "storage.plugin", CLAAS_TEXT, NULL, NULL, KEYS_ANY, \
      "plugin that keeps adapters; without a storage there are none") \
    X(INFERENCE_PLUGIN, "inference.plugin", CLAAS_TEXT, NULL, NULL, KEYS_ANY, \
      "plugin that answers; left out, the engine's own instance answers") \
    X(INFERENCE_SHARES_DEVICE, "inference.shares_device", CLAAS_TEXT, "none", "none|pause|sleep", \
      KEYS_ANY, \
      "what to do with inference around a step that needs the same device") \
    X(DEFAULT_MODEL, "default_model", CLAAS_TEXT, "", NULL, KEYS_ANY, \
      "adapter that an empty model name means; empty is the base model") \
    X(ALLOWED_INIT_BASE_MODELS, "allowed_init_base_models", CLAAS_LIST, NULL, NULL, KEYS_ANY, \
      "base models an adapter may be created for; empty allows the engine's own only") \
    X(ROLLOUTS_MAX_COUNT, "rollouts.max_count", CLAAS_INT, "100000", NULL, (0, 1e9), \
      "unrated rollouts that are kept, the newest ones; 0 keeps any number") \
    X(ROLLOUTS_MAX_AGE, "rollouts.max_age", CLAAS_MS, "30d", NULL, (0, 36500 * KEYS_DAY), \
      "age at which an unrated rollout is deleted; 0 keeps them for ever") \
    X(FEEDBACK_MAX_COUNT, "feedback.max_count", CLAAS_INT, "100000", NULL, (0, 1e9), \
      "feedback records that are kept with the rollouts they rate, the newest ones; 0 keeps any number") \
    X(FEEDBACK_MAX_AGE, "feedback.max_age", CLAAS_MS, "0s", NULL, (0, 36500 * KEYS_DAY), \
      "age at which a feedback record is deleted; 0 keeps them for ever") \
    X(RETENTION_KEEP_SERVE, "retention.keep_serve", CLAAS_INT, "10", NULL, (1, 1e6), \
      "newest versions of an adapter that can be served") \
    X(RETENTION_KEEP_DAILY, "retention.keep_daily", CLAAS_INT, "30", NULL, (0, 36500), \
      "days back for which one version a day can be served, beyond the newest") \
    X(RETENTION_KEEP_TRAIN, "retention.keep_train", CLAAS_INT, "2", NULL, (1, 1e6), \
      "newest versions whose optimizer state is kept") \
    X(RETENTION_GRACE, "retention.grace", CLAAS_MS, "24h", NULL, (60000, 36500 * KEYS_DAY), \
      "contents younger than this are never deleted") \
    X(RETENTION_SWEEP_EVERY, "retention.sweep_every", CLAAS_MS, "1h", NULL, (0, 365 * KEYS_DAY), \
      "time between two sweeps; 0 never sweeps") \
    X(JOBS_WORKERS, "jobs.workers", CLAAS_INT, "1", NULL, (1, 64), \
      "steps at one time, of different adapters, where the engine can do so") \
    X(JOBS_QUEUE, "jobs.queue", CLAAS_INT, "64", NULL, (1, 100000), \
      "feedback that may wait for its turn") \
    X(JOBS_QUEUE_KEY, "jobs.queue_key", CLAAS_INT, "16", NULL, (1, 100000), \
      "feedback of one key that may wait for its turn") \
    X(JOBS_WAITERS, "jobs.waiters", CLAAS_INT, "128", NULL, (1, 10000), \
      "requests that may wait for the end of a job, or follow its events") \
    X(JOBS_IDEMPOTENCY, "jobs.idempotency", CLAAS_MS, "24h", NULL, (1000, 365 * KEYS_DAY), \
      "how long a repeat with the same Idempotency-Key is recognised") \
    X(JOBS_KEEP, "jobs.keep", CLAAS_MS, "7d", NULL, (60000, 36500 * KEYS_DAY), \
      "how long a job that has ended can be asked for") \
    X(JOBS_AUDIT, "jobs.audit", CLAAS_MS, "365d", NULL, (KEYS_HOUR, 36500 * KEYS_DAY), \
      "how long the audit tells who did what") \
    X(LIMITS_BODY, "limits.body", CLAAS_BYTES, "16MiB", NULL, (1024, 1073741824.0), \
      "largest body of a request") \
    X(LIMITS_CONNECTIONS, "limits.connections", CLAAS_INT, "1024", NULL, (1, 65536), \
      "connections at one time") \
    X(LIMITS_CONNECTIONS_PER_ADDRESS, "limits.connections_per_address", CLAAS_INT, "0", NULL, (0, 65536), \
      "connections at one time from one address; 0 means no bound of its own") \
    X(LIMITS_PROMPT_TOKENS, "limits.prompt_tokens", CLAAS_INT, "0", NULL, (0, 16777216), \
      "longest prompt in tokens; 0 allows the model's context") \
    X(LIMITS_RESPONSE_TOKENS, "limits.response_tokens", CLAAS_INT, "32768", NULL, (1, 16777216), \
      "most a request may ask for as max_tokens") \
    X(LIMITS_DEFAULT_TOKENS, "limits.default_tokens", CLAAS_INT, "2048", NULL, (1, 16777216), \
      "max_tokens of a request that names none") \
    X(LIMITS_BATCH_ITEMS, "limits.batch_items", CLAAS_INT, "64", NULL, (1, 4096), \
      "items of feedback in one request") \
    X(LIMITS_LOCK_TIMEOUT, "limits.lock_timeout", CLAAS_MS, "120s", NULL, (0, KEYS_DAY), \
      "how long feedback waits for the adapter's turn") \
    X(LIMITS_DRAIN_TIMEOUT, "limits.drain_timeout", CLAAS_MS, "30s", NULL, (0, KEYS_DAY), \
      "how long a step waits for answers to end before inference is paused") \
    X(LIMITS_REQUEST_TIMEOUT, "limits.request_timeout", CLAAS_MS, "10min", NULL, (1000, KEYS_DAY), \
      "longest an answer or a score may take") \
    X(LIMITS_TRAIN_TIMEOUT, "limits.train_timeout", CLAAS_MS, "30min", NULL, (1000, 7 * KEYS_DAY), \
      "longest a step may take") \
    X(LIMITS_IDLE_TIMEOUT, "limits.idle_timeout", CLAAS_MS, "60s", NULL, (1000, KEYS_DAY), \
      "silence after which a connection is closed") \
    X(LIMITS_STOP_TIMEOUT, "limits.stop_timeout", CLAAS_MS, "20s", NULL, (0, KEYS_HOUR), \
      "how long answers and steps in progress may go on when the daemon stops")

/* Rows that a reload (SIGHUP) may change. What is not here and is read anew by nobody keeps the value of the start. */
#define KEYS_RELOADABLE(X) \
    X(LOG_LEVEL) X(LOG_LEVELS) X(LOG_FORMAT) X(RETENTION_SWEEP_EVERY) X(LIMITS_BATCH_ITEMS) X(LIMITS_REQUEST_TIMEOUT) \
    X(LIMITS_TRAIN_TIMEOUT) X(LIMITS_STOP_TIMEOUT)

enum {
#define KEYS_ID(id, name, type, def, choices, bounds, help) KEY_##id,
    KEYS_TABLE(KEYS_ID)
#undef KEYS_ID
        KEYS_COUNT
};

#endif
