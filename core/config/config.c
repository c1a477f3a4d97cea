/* SPDX-License-Identifier: MIT */
#include <config.h> /* not in quotes: config.h of this folder is another */

#include "config/config.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "config/fill.h"
#include "config/keys.h"
#include "config/node.h"
#include "config/values.h"
#include "host/option.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Sections that also hold keys of a plugin or an engine. */
static const char *const open_sections[] = { "engine", "storage", "inference", "training", NULL };
/* The core's own keys in these. */
static const char *const section_keys[] = { "plugin", NULL };
static const char *const inference_keys[] = { "plugin", "shares_device", NULL };
static const char *const no_keys[] = { NULL };

const struct option_table *config_table(void)
{
    static struct claas_option rows[] = {
#define ROW(id, name, type, def, choices, bounds, help) \
    { name, def, choices, help, KEYS_BOTH bounds, type, 0 },
        KEYS_TABLE(ROW)
#undef ROW
    };
    static const struct option_table table = { .rows = rows, .n = KEYS_COUNT };
    return &table;
}

static const char *const *keys_of(const struct config_section *section)
{
    return strcmp(section->name, "training") == 0    ? no_keys
           : strcmp(section->name, "inference") == 0 ? inference_keys
                                                     : section_keys;
}

/* ---- origins -------------------------------------------------------------------------------- */

static struct config_origin *origin_add(struct config *config, const char *file, const char *dir)
{
    struct config_origin *origin = calloc(1, sizeof *origin);
    if (!origin) {
        return NULL;
    }
    origin->next = config->origins;
    config->origins = origin;
    origin->file = mem_dup(file, strlen(file));
    origin->dir = mem_dup(dir, strlen(dir));
    return origin->file && origin->dir ? origin : NULL;
}

static struct node_place config_place(const struct config *config)
{
    return config->root->place;
}

/* ---- overrides ------------------------------------------------------------------------------ */

/* The map that holds the last part of a dotted key, made on the way. */
static int set_parent(struct config_node *root, const char *key, struct node_place place,
                      struct config_node **out, const char **out_last, struct claas_error *err)
{
    struct config_node *map = root;
    const char *dot = NULL;
    for (; (dot = strchr(key, '.')); key = dot + 1) {
        char part[129];
        size_t n = (size_t)(dot - key);
        if (n == 0 || n >= sizeof part) {
            return node_refuse(&place, key, err, "expected a key");
        }
        memcpy(part, key, n);
        part[n] = '\0';
        struct config_node *next = node_get(map, part);
        if (!next || next->kind != NODE_MAP) {
            next = node_new(NODE_MAP, place);
            int rc =
                next ? node_set(map, part, next, err) : err_oom(err, "reading the configuration");
            if (rc != 0) {
                return rc;
            }
        }
        map = next;
    }
    *out = map;
    *out_last = key;
    return 0;
}

/* One "a.b=value". */
static int set_apply(struct config *config, const char *set, const char *dir,
                     struct claas_error *err)
{
    const char *equal = strchr(set, '=');
    if (!equal || equal == set || equal - set > 128 || equal[-1] == '.') {
        return err_set(err, CLAAS_ERR_INVALID, "--set", "--set '%.100s': expected KEY=VALUE", set);
    }
    char key[132];
    char name[160];
    (void)snprintf(key, sizeof key, "%.*s", (int)(equal - set), set);
    (void)snprintf(name, sizeof name, "--set %s", key);
    struct config_origin *origin = origin_add(config, name, dir);
    if (!origin) {
        return err_oom(err, "reading the configuration");
    }
    struct node_place place = { origin, 1, 1 };
    struct config_node *value = NULL;
    struct config_node *map = NULL;
    const char *last = NULL;
    int rc = node_parse(equal + 1, strlen(equal + 1), origin, &value, err);
    if (rc == 0 && equal[1] == '\0') {
        /* An empty map is what no text parses to; here it stands for the empty text. */
        value->kind = NODE_SCALAR;
        value->text = mem_dup("", 0);
        rc = value->text ? 0 : err_oom(err, "reading the configuration");
    }
    if (rc == 0) {
        rc = set_parent(config->root, key, place, &map, &last, err);
    }
    if (rc != 0) {
        node_free(value);
        return rc;
    }
    return node_set(map, last, value, err);
}

static int sets_apply(struct config *config, const char *const *sets, size_t n,
                      struct claas_error *err)
{
    if (n == 0) {
        return 0;
    }
    char *dir = getcwd(NULL, 0);
    if (!dir) {
        return err_errno(err, errno, "", "cannot tell the working directory");
    }
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = set_apply(config, sets[i], dir, err);
    }
    free(dir);
    return rc;
}

/* ---- from values to the struct -------------------------------------------------------------- */

static int port_parse(const char *text, uint16_t *out)
{
    size_t n = strlen(text);
    if (n == 0 || n > 5 || strspn(text, "0123456789") != n || atol(text) > 65535) {
        return -1;
    }
    *out = (uint16_t)atol(text);
    return 0;
}

static int host_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static int host_is_address(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    return inet_pton(AF_INET, host, &v4) == 1 || inet_pton(AF_INET6, host, &v6) == 1;
}

/* Splits "127.0.0.1:8080" or "[::1]:8080" in place. */
static int listen_split(char *text, const char **out_host, uint16_t *out_port)
{
    char *colon = strrchr(text, ':');
    if (!colon || port_parse(colon + 1, out_port) != 0) {
        return -1;
    }
    *colon = '\0';
    size_t n = strlen(text);
    if (n > 2 && text[0] == '[' && text[n - 1] == ']') {
        text[n - 1] = '\0';
        text++;
    } else if (strchr(text, ':')) {
        return -1;
    }
    *out_host = strcmp(text, "localhost") == 0 ? "127.0.0.1" : text;
    return 0;
}

static int fill_listen(struct config *config, struct claas_error *err)
{
    const struct config_node *node = node_get(config->root, "listen");
    struct node_place place = node ? node->place : config_place(config);
    config->listen = config->values.values[KEY_LISTEN].s;
    config->text = mem_dup(config->listen, strlen(config->listen));
    if (!config->text) {
        return err_oom(err, "reading the configuration");
    }
    if (strncmp(config->text, "unix:/", 6) == 0) {
        config->listen_path = config->text + 5;
        return config->tls.certificate ? node_refuse(&place, "listen", err, "listen: a Unix socket does not take 'tls'") : 0;
    }
    if (listen_split(config->text, &config->listen_host, &config->listen_port) != 0) {
        return node_refuse(&place, "listen", err,
                           "listen: expected an address and a port such as 127.0.0.1:8080 or [::1]:8080, or unix:/PATH, "
                           "found '%.100s'",
                           config->listen);
    }
    int loopback = host_is_loopback(config->listen_host);
    if (!loopback && !host_is_address(config->listen_host)) {
        return node_refuse(&place, "listen", err,
                           "listen: expected an address such as 127.0.0.1, ::1 or 0.0.0.0, found '%.100s'",
                           config->listen_host);
    }
    if (!loopback && config->access.keys != CONFIG_KEYS_ON && !config->access.open_to_network) {
        return node_refuse(&place, "listen", err,
                           "listen: '%.100s' can be reached from other machines: expected 'access: {keys: on}' beside "
                           "it (or 'access: {open_to_network: true}' to let strangers do anything)",
                           config->listen_host);
    }
    return 0;
}

static int plugin_name_ok(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= 64 && name[0] >= 'a' && name[0] <= 'z' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static int fill_section(struct config *config, const char *name, int key,
                        struct config_section *out, struct claas_error *err)
{
    struct config_node *node = node_get(config->root, name);
    const struct config_node *plugin = node ? node_get(node, "plugin") : NULL;
    out->name = name;
    out->node = node && node->kind == NODE_MAP ? node : NULL;
    out->plugin = key >= 0 ? config->values.values[key].s : "";
    if (key < 0 || !node) {
        return 0;
    }
    if (plugin && !plugin_name_ok(out->plugin)) {
        return node_refuse(
            &plugin->place, "plugin", err,
            "%s.plugin: expected the name of a plugin ([a-z][a-z0-9-]*), found '%.64s'", name,
            out->plugin);
    }
    if (plugin) {
        return 0;
    }
    for (size_t i = 0; out->node && i < node->n; i++) {
        if (key != KEY_INFERENCE_PLUGIN || strcmp(node->members[i].key, "shares_device") != 0) {
            return node_refuse(
                &node->members[i].place, "plugin", err,
                "%s: '%.64s' stands there without the name of a plugin, expected plugin: NAME",
                name, node->members[i].key);
        }
    }
    return key == KEY_INFERENCE_PLUGIN
               ? 0
               : node_refuse(&node->place, "plugin", err,
                             "%s: expected plugin: NAME (or leave the section out)", name);
}

void fill_numbers(struct config *config, const struct claas_value *v)
{
    config->rollouts.max_count = v[KEY_ROLLOUTS_MAX_COUNT].i;
    config->rollouts.max_age_ms = v[KEY_ROLLOUTS_MAX_AGE].i;
    config->feedback.max_count = v[KEY_FEEDBACK_MAX_COUNT].i;
    config->feedback.max_age_ms = v[KEY_FEEDBACK_MAX_AGE].i;
    config->retention.keep_serve = v[KEY_RETENTION_KEEP_SERVE].i;
    config->retention.keep_daily = v[KEY_RETENTION_KEEP_DAILY].i;
    config->retention.keep_train = v[KEY_RETENTION_KEEP_TRAIN].i;
    config->retention.grace_ms = v[KEY_RETENTION_GRACE].i;
    config->retention.sweep_every_ms = v[KEY_RETENTION_SWEEP_EVERY].i;
    config->jobs.workers = v[KEY_JOBS_WORKERS].i;
    config->jobs.queue = v[KEY_JOBS_QUEUE].i;
    config->jobs.queue_key = v[KEY_JOBS_QUEUE_KEY].i;
    config->jobs.waiters = v[KEY_JOBS_WAITERS].i;
    config->jobs.idempotency_ms = v[KEY_JOBS_IDEMPOTENCY].i;
    config->jobs.keep_ms = v[KEY_JOBS_KEEP].i;
    config->jobs.audit_ms = v[KEY_JOBS_AUDIT].i;
    config->limits.body_bytes = v[KEY_LIMITS_BODY].i;
    config->limits.connections = v[KEY_LIMITS_CONNECTIONS].i;
    config->limits.connections_per_address = v[KEY_LIMITS_CONNECTIONS_PER_ADDRESS].i;
    config->limits.prompt_tokens = v[KEY_LIMITS_PROMPT_TOKENS].i;
    config->limits.response_tokens = v[KEY_LIMITS_RESPONSE_TOKENS].i;
    config->limits.default_tokens = v[KEY_LIMITS_DEFAULT_TOKENS].i;
    config->limits.batch_items = v[KEY_LIMITS_BATCH_ITEMS].i;
    config->limits.lock_timeout_ms = v[KEY_LIMITS_LOCK_TIMEOUT].i;
    config->limits.drain_timeout_ms = v[KEY_LIMITS_DRAIN_TIMEOUT].i;
    config->limits.request_timeout_ms = v[KEY_LIMITS_REQUEST_TIMEOUT].i;
    config->limits.train_timeout_ms = v[KEY_LIMITS_TRAIN_TIMEOUT].i;
    config->limits.stop_timeout_ms = v[KEY_LIMITS_STOP_TIMEOUT].i;
    config->limits.idle_timeout_ms = v[KEY_LIMITS_IDLE_TIMEOUT].i;
}

static void fill_access(struct config *config)
{
    const char *keys = config->values.values[KEY_ACCESS_KEYS].s;
    config->access.keys = strcmp(keys, "on") == 0    ? CONFIG_KEYS_ON
                          : strcmp(keys, "off") == 0 ? CONFIG_KEYS_OFF
                                                     : CONFIG_KEYS_AUTO;
    config->access.socket_mode = (mode_t)strtol(config->values.values[KEY_ACCESS_SOCKET_MODE].s, NULL, 8);
    config->access.open_to_network = config->values.values[KEY_ACCESS_OPEN_TO_NETWORK].i != 0;
}

static int fill_tls(struct config *config, struct claas_error *err)
{
    const struct config_node *node = node_get(config->root, "tls");
    struct node_place place = node ? node->place : config_place(config);
    const char *certificate = config->values.values[KEY_TLS_CERTIFICATE].s;
    const char *key = config->values.values[KEY_TLS_KEY].s;
    config->tls.certificate = certificate && certificate[0] ? certificate : NULL;
    config->tls.key = key && key[0] ? key : NULL;
    if (!config->tls.certificate != !config->tls.key) {
        return node_refuse(&place, "tls", err, "tls: expected both 'certificate' and 'key', found one of them");
    }
    return 0;
}

static int fill(struct config *config, struct claas_error *err)
{
    const struct claas_value *v = config->values.values;
    const char *shares = v[KEY_INFERENCE_SHARES_DEVICE].s;
    config->state_dir = v[KEY_STATE_DIR].s;
    config->plugin_path = v[KEY_PLUGIN_PATH].s[0] ? v[KEY_PLUGIN_PATH].s : NULL;
    config->default_model = v[KEY_DEFAULT_MODEL].s;
    config->allowed_init_base_models = v[KEY_ALLOWED_INIT_BASE_MODELS].list;
    config->shares_device = shares[0] == 'p'   ? CONFIG_SHARES_PAUSE
                            : shares[0] == 's' ? CONFIG_SHARES_SLEEP
                                               : CONFIG_SHARES_NONE;
    fill_numbers(config, v);
    fill_access(config);
    int rc = fill_log(config, err);
    rc = rc ? rc : fill_tls(config, err);
    rc = rc ? rc : fill_listen(config, err);
    rc = rc ? rc : fill_section(config, "engine", KEY_ENGINE_PLUGIN, &config->engine, err);
    rc = rc ? rc : fill_section(config, "storage", KEY_STORAGE_PLUGIN, &config->storage, err);
    rc = rc ? rc : fill_section(config, "inference", KEY_INFERENCE_PLUGIN, &config->inference, err);
    rc = rc ? rc : fill_section(config, "training", -1, &config->training, err);
    return rc;
}

/* ---- loading -------------------------------------------------------------------------------- */

void config_free(struct config *config)
{
    if (!config) {
        return;
    }
    option_values_clear(&config->values);
    node_free(config->root);
    while (config->origins) {
        struct config_origin *origin = config->origins;
        config->origins = origin->next;
        free(origin->file);
        free(origin->dir);
        free(origin);
    }
    free(config->text);
    free(config);
}

static int config_read(struct config *config, const char *text, size_t n, const char *name,
                       const char *dir, const char *const *sets, size_t n_sets,
                       struct claas_error *err)
{
    struct config_origin *origin = origin_add(config, name, dir);
    if (!origin) {
        return err_oom(err, "reading the configuration");
    }
    config->file = origin->file;
    int rc = node_parse(text, n, origin, &config->root, err);
    if (rc != 0) {
        return rc;
    }
    if (node_is_nothing(config->root)) {
        config->root->kind = NODE_MAP;
    }
    if (config->root->kind != NODE_MAP) {
        return node_refuse(&config->root->place, "", err,
                           "expected keys such as listen: 127.0.0.1:8080");
    }
    rc = sets_apply(config, sets, n_sets, err);
    if (rc != 0) {
        return rc;
    }
    struct values_request request = { .map = config->root,
                                      .at = config_place(config),
                                      .table = config_table(),
                                      .open = open_sections,
                                      .title = "" };
    rc = values_from_node(&request, &config->values, err);
    return rc != 0 ? rc : fill(config, err);
}

static int config_make(const char *text, size_t n, const char *name, const char *dir,
                       const char *const *sets, size_t n_sets, struct config **out,
                       struct claas_error *err)
{
    struct config *config = calloc(1, sizeof *config);
    if (!config) {
        return err_oom(err, "reading the configuration");
    }
    int rc = config_read(config, text, n, name, dir, sets, n_sets, err);
    if (rc != 0) {
        config_free(config);
        return rc;
    }
    *out = config;
    return 0;
}

int config_parse(const char *text, size_t n, const char *name, const char *dir, struct config **out,
                 struct claas_error *err)
{
    return config_make(text, n, name, dir, NULL, 0, out, err);
}

/* The directory of a file, absolute, on the heap. */
static int directory_of(const char *path, char **out, struct claas_error *err)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 1;
    char *dir = mem_dup(slash ? path : ".", n);
    char *real = dir ? realpath(dir, NULL) : NULL;
    int rc = real ? 0 : err_errno(err, errno, path, "cannot read the configuration '%s'", path);
    free(dir);
    if (rc == 0) {
        *out = real;
    }
    return rc;
}

int config_load_overrides(const char *path, const char *const *sets, size_t n_sets,
                          struct config **out, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    char *dir = NULL;
    int rc = file_read(path, NODE_BYTES_MAX, &text, err);
    if (rc == 0) {
        rc = directory_of(path, &dir, err);
    } else {
        err_prefix(err, "cannot read the configuration");
    }
    if (rc == 0) {
        rc = config_make(buf_str(&text), text.len, path, dir, sets, n_sets, out, err);
    }
    buf_clear(&text);
    free(dir);
    return rc;
}

int config_load(const char *path, struct config **out, struct claas_error *err)
{
    return config_load_overrides(path, NULL, 0, out, err);
}

/* ---- sections ------------------------------------------------------------------------------- */

static struct node_place section_place(const struct config *config,
                                       const struct config_section *section)
{
    const struct node_member *member = node_member_get(config->root, section->name);
    return member ? member->place : config_place(config);
}

int config_section_values(const struct config *config, const struct config_section *section,
                          const struct option_table *table, struct option_values *out,
                          struct claas_error *err)
{
    struct values_request request = { .map = section->node,
                                      .at = section_place(config, section),
                                      .table = table,
                                      .skip = keys_of(section),
                                      .title = section->name };
    return values_from_node(&request, out, err);
}

int config_section_blame(const struct config *config, const struct config_section *section,
                         const char *key, struct claas_error *err)
{
    struct node_place place = section_place(config, section);
    const struct config_node *node = section->node;
    char part[129];
    while (node && *key) {
        size_t n = strcspn(key, ".");
        (void)snprintf(part, sizeof part, "%.*s", (int)n, key);
        node = node_get(node, part);
        place = node ? node->place : place;
        key += n + (key[n] == '.');
    }
    return node_blame(&place, err);
}

int config_inference_is_engine(const struct config *config)
{
    if (config->engine.plugin[0] == '\0') {
        return 0;
    }
    if (config->inference.plugin[0] == '\0') {
        return 1;
    }
    if (strcmp(config->inference.plugin, config->engine.plugin) != 0) {
        return 0;
    }
    const struct config_node *node = config->inference.node;
    for (size_t i = 0; i < node->n; i++) {
        const char *const *key = inference_keys;
        while (*key && strcmp(*key, node->members[i].key) != 0) {
            key++;
        }
        if (!*key) {
            return 0;
        }
    }
    return 1;
}
