/* SPDX-License-Identifier: MIT */
/* Configuration: what is read, what is refused where and in which words, and that sample, page and table agree. */
#include "config.h"

#include "testing.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct config *config;
static struct claas_error err;

static void setup(void)
{
    err_clear(&err);
}

static void teardown(void)
{
    config_free(config);
    config = NULL;
}

static int parse_n(const char *text, size_t n)
{
    config_free(config);
    config = NULL;
    err_clear(&err);
    return config_parse(text, n, "c.yaml", "/etc/claas", &config, &err);
}

static int parse(const char *text)
{
    return parse_n(text, strlen(text));
}

START_TEST(nothing_gives_the_defaults)
{
    static const char *const texts[] = { "", "# only words\n", "---\n", "{}", "engine:\ntraining:\n" };
    int rc = parse(texts[_i]);
    if (_i == 4) {
        ck_failed(rc, CLAAS_ERR_INVALID, err);
        return;
    }
    ck_ok(rc, err);
    ck_assert_str_eq(config->listen, "127.0.0.1:8080");
    ck_assert_str_eq(config->listen_host, "127.0.0.1");
    ck_assert_uint_eq(config->listen_port, 8080);
    ck_assert_str_eq(config->state_dir, "/var/lib/claas");
    ck_assert_ptr_null(config->plugin_path);
    ck_assert_int_eq(config->log.level, LOG_INFO);
    ck_assert_str_eq(config->engine.plugin, "");
    ck_assert_ptr_null(config->engine.node);
    ck_assert_str_eq(config->default_model, "");
    ck_assert_ptr_null(config->allowed_init_base_models[0]);
    ck_assert_int_eq(config->rollouts.max_count, 100000);
    ck_assert_int_eq(config->rollouts.max_age_ms, INT64_C(30) * 86400000);
    ck_assert_int_eq(config->retention.keep_train, 2);
    ck_assert_int_eq(config->retention.grace_ms, 86400000);
    ck_assert_int_eq(config->limits.body_bytes, 16 << 20);
    ck_assert_int_eq(config->limits.lock_timeout_ms, 120000);
    ck_assert_int_eq(config->limits.idle_timeout_ms, 60000);
    ck_assert(!config_inference_is_engine(config));
}
END_TEST

START_TEST(everything_is_read)
{
    ck_ok(parse("listen: '[::1]:0'\n"
                "state_dir: state\n"
                "plugin_path: /p\n"
                "log: {level: debug, levels: {serving: trace}, format: json}\n"
                "engine: {plugin: cpu, model: m.gguf}\n"
                "storage:\n  plugin: fs\n  root: /r\n"
                "inference:\n  plugin: vllm\n  shares_device: sleep\n  url: http://x\n"
                "training: {learning_rate: 1}\n"
                "default_model: ada/tutor\n"
                "allowed_init_base_models: [a, 'b c']\n"
                "rollouts: {max_count: 5, max_age: 2h}\n"
                "retention: {keep_serve: 3, keep_daily: 0, keep_train: 1, grace: 90s, sweep_every: 0}\n"
                "limits:\n  body: 1MiB\n  connections: 7\n  prompt_tokens: 9\n  response_tokens: 10\n"
                "  default_tokens: 11\n  batch_items: 12\n  lock_timeout: 13ms\n  drain_timeout: 14\n"
                "  request_timeout: 15s\n  train_timeout: 16min\n  idle_timeout: 1h\n"),
          err);
    ck_assert_str_eq(config->listen, "[::1]:0");
    ck_assert_str_eq(config->listen_host, "::1");
    ck_assert_uint_eq(config->listen_port, 0);
    ck_assert_str_eq(config->state_dir, "/etc/claas/state");
    ck_assert_str_eq(config->plugin_path, "/p");
    ck_assert_int_eq(config->log.level, LOG_DEBUG);
    ck_assert_int_eq(config->log.rooms[log_room_find("serving")], LOG_TRACE);
    ck_assert_int_eq(config->log.rooms[log_room_find("state")], -1);
    ck_assert_int_eq(config->log.format, LOG_JSON);
    ck_assert_str_eq(config->engine.plugin, "cpu");
    ck_assert_str_eq(config->storage.plugin, "fs");
    ck_assert_str_eq(config->inference.plugin, "vllm");
    ck_assert_int_eq(config->shares_device, CONFIG_SHARES_SLEEP);
    ck_assert_str_eq(config->training.plugin, "");
    ck_assert_ptr_nonnull(config->training.node);
    ck_assert_str_eq(config->default_model, "ada/tutor");
    ck_assert_str_eq(config->allowed_init_base_models[1], "b c");
    ck_assert_ptr_null(config->allowed_init_base_models[2]);
    ck_assert_int_eq(config->rollouts.max_age_ms, 7200000);
    ck_assert_int_eq(config->retention.keep_serve, 3);
    ck_assert_int_eq(config->retention.keep_daily, 0);
    ck_assert_int_eq(config->retention.keep_train, 1);
    ck_assert_int_eq(config->retention.grace_ms, 90000);
    ck_assert_int_eq(config->retention.sweep_every_ms, 0);
    ck_assert_int_eq(config->limits.body_bytes, 1 << 20);
    ck_assert_int_eq(config->limits.connections, 7);
    ck_assert_int_eq(config->limits.prompt_tokens, 9);
    ck_assert_int_eq(config->limits.response_tokens, 10);
    ck_assert_int_eq(config->limits.default_tokens, 11);
    ck_assert_int_eq(config->limits.batch_items, 12);
    ck_assert_int_eq(config->limits.lock_timeout_ms, 13);
    ck_assert_int_eq(config->limits.drain_timeout_ms, 14);
    ck_assert_int_eq(config->limits.request_timeout_ms, 15000);
    ck_assert_int_eq(config->limits.train_timeout_ms, 960000);
    ck_assert_int_eq(config->limits.idle_timeout_ms, 3600000);
}
END_TEST

static const struct {
    const char *yaml;
    const char *where; /* "3:1" */
    const char *message;
} bad[] = {
    /* YAML itself */
    { "listen: [", "2:1", "not valid YAML" },
    { "listen: 'x\n", "2:1", "not valid YAML" },
    { "a\n  b: c\n", "2:4", "not valid YAML" },
    { "listen: x\n\tstate_dir: y\n", "2:1", "not valid YAML" },
    { "a: b\n---\nc: d\n", "2:1", "expected one document, a second begins here" },
    { "listen: &here 127.0.0.1:80\n", "1:9", "anchors" },
    { "listen: *there\n", "1:9", "aliases" },
    { "engine: &e\n  plugin: cpu\n", "1:9", "anchors" },
    { "<<: *e\n", "1:5", "aliases" },
    { "listen: !!str 5\n", "1:9", "tags" },
    { "engine: !x {plugin: cpu}\n", "1:9", "tags" },
    { "- a\n- b\n", "1:1", "expected keys such as listen" },
    { "just words\n", "1:1", "expected keys such as listen" },
    { "? [a, b]\n: c\n", "1:3", "expected a key" },
    { "'': c\n", "1:1", "expected a key" },
    { "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", "2:1", "key 'listen' stands there twice, first at line 1 column 1" },
    { "engine:\n  plugin: cpu\n  plugin: cuda\n", "3:3", "key 'plugin' stands there twice, first at line 2 column 3" },
    { "engine:\n  plugin: cpu\n  x: {a: 1, a: 2}\n", "3:13", "key 'a' stands there twice" },
    { "x: [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]\n", "1:19", "nested deeper than 16 levels" },
    { "listen: a\xFFz\n", "1:10", "not valid UTF-8" },
    { "# caf\xC3\xA9\nlisten: \xC0\xAF\n", "2:9", "not valid UTF-8" },
    { "listen: a\001b\n", "1:10", "a control character" },
    { "default_model: \"a\\0b\"\n", "1:16", "a zero character" },
    /* keys */
    { "lisen: 127.0.0.1:80\n", "1:1", "unknown key 'lisen', expected one of: listen, access" },
    { "limits:\n  boddy: 1\n", "2:3", "unknown key 'boddy' in limits, expected one of: body, connections" },
    { "rollouts.max_count: 1\n", "1:1", "unknown key 'rollouts.max_count'" },
    { "rollouts: 5\n", "1:11", "rollouts: expected keys below it, found a single value" },
    { "rollouts: [5]\n", "1:11", "rollouts: expected keys below it, found a list" },
    { "engine: cpu\n", "1:9", "engine: expected keys below it, found a single value" },
    { "training: [1]\n", "1:11", "training: expected keys below it, found a list" },
    { "plugin: cpu\n", "1:1", "unknown key 'plugin'" },
    /* types and bounds */
    { "listen: [a]\n", "1:9", "listen: expected text, found a list" },
    { "listen: {a: b}\n", "1:9", "listen: expected text, found keys below it" },
    { "listen:\n", "1:8", "listen: expected text, found nothing" },
    { "state_dir: ''\n", "1:12", "state_dir: expected a path, found the empty text" },
    { "log: {levels: {serve: debug}}\n", "1:16", "unknown subsystem 'serve' in log.levels, expected one of: server, http" },
    { "log:\n  levels: {serving: loud}\n", "2:21", "log.levels.serving: expected one of 'error', 'warning'" },
    { "log:\n  levels: loud\n", "2:11", "log.levels: expected subsystems with their levels" },
    { "log: {format: xml}\n", "1:15", "log.format: expected one of 'auto', 'plain', 'journal', 'json', found 'xml'" },
    { "log: {level: loud}\n", "1:14", "log.level: expected one of 'error', 'warning', 'info', 'debug', 'trace', found 'loud'" },
    { "rollouts:\n  max_count: many\n", "2:14", "rollouts.max_count: expected a whole number from 0 to 1000000000, found 'many'" },
    { "rollouts: {max_count: \"5\"}\n", "1:23", "found the text '5'" },
    { "rollouts: {max_count: -1}\n", "1:23", "found '-1'" },
    { "rollouts: {max_count: 1.5}\n", "1:23", "found '1.5'" },
    { "rollouts: {max_count: 99999999999999999999}\n", "1:23", "expected a whole number" },
    { "rollouts: {max_age: 3 weeks}\n", "1:21", "rollouts.max_age: expected a duration such as 30s from 0 to 36500d" },
    { "retention: {keep_train: 0}\n", "1:25", "retention.keep_train: expected a whole number from 1 to 1000000, found '0'" },
    { "retention: {grace: 1s}\n", "1:20", "from 1min to 36500d, found '1s'" },
    { "limits: {body: 16MB/s}\n", "1:16", "limits.body: expected a size such as 64MiB from 1KiB to 1GiB" },
    { "limits: {body: 2GiB}\n", "1:16", "found '2GiB'" },
    { "limits: {body: nan}\n", "1:16", "found 'nan'" },
    { "allowed_init_base_models: a\n", "1:27", "expected a list of texts, found 'a'" },
    { "allowed_init_base_models: [a, [b]]\n", "1:31", "expected a list of texts" },
    { "allowed_init_base_models: [a, ]\nlimits: {connections: yes}\n", "2:23", "found 'yes'" },
    /* listen */
    { "listen: 8080\n", "1:9", "expected an address and a port such as 127.0.0.1:8080" },
    { "listen: 127.0.0.1\n", "1:9", "expected an address and a port" },
    { "listen: 127.0.0.1:65536\n", "1:9", "expected an address and a port" },
    { "listen: '127.0.0.1:'\n", "1:9", "expected an address and a port" },
    { "listen: 127.0.0.1:-1\n", "1:9", "expected an address and a port" },
    { "listen: '::1:80'\n", "1:9", "expected an address and a port" },
    { "listen: 0.0.0.0:8080\n", "1:9", "can be reached from other machines: expected 'access: {keys: on}'" },
    { "listen: 192.168.1.5:8080\n", "1:9", "can be reached from other machines: expected 'access: {keys: on}'" },
    { "listen: '[::]:8080'\n", "1:9", "can be reached from other machines: expected 'access: {keys: on}'" },
    { "listen: 0.0.0.0:80\naccess: {keys: off}\n", "1:9", "can be reached from other machines" },
    { "access: {keys: yes}\n", "1:16", "access.keys" },
    { "listen: example.org:80\n", "1:9", "expected an address such as 127.0.0.1" },
    { "listen: 127.1:80\n", "1:9", "expected an address such as 127.0.0.1" },
    /* sections */
    { "engine:\n", "1:8", "engine: expected plugin: NAME" },
    { "engine:\n  model: x\n", "2:3", "engine: 'model' stands there without the name of a plugin" },
    { "storage: {}\n", "1:10", "storage: expected plugin: NAME" },
    { "engine:\n  plugin: ../cpu\n", "2:11", "engine.plugin: expected the name of a plugin ([a-z][a-z0-9-]*), found '../cpu'" },
    { "engine: {plugin: [cpu]}\n", "1:18", "engine.plugin: expected text, found a list" },
    { "engine: {plugin: }\n", "1:18", "engine.plugin: expected text, found nothing" },
    { "storage: {plugin: ''}\n", "1:19", "expected the name of a plugin" },
    { "inference:\n  url: x\n", "2:3", "inference: 'url' stands there without the name of a plugin" },
    { "inference: {shares_device: maybe}\n", "1:28", "inference.shares_device: expected one of 'none', 'pause', 'sleep'" },
};

START_TEST(bad_files_are_refused)
{
    char where[64];
    ck_failed(parse(bad[_i].yaml), CLAAS_ERR_INVALID, err);
    (void)snprintf(where, sizeof where, "c.yaml:%s: ", bad[_i].where);
    ck_assert_msg(strncmp(err.message, where, strlen(where)) == 0, "not at %s: %s", bad[_i].where, err.message);
    ck_assert_msg(strstr(err.message, bad[_i].message) != NULL, "'%s' not in: %s", bad[_i].message, err.message);
    ck_assert_ptr_null(config);
}
END_TEST

START_TEST(sizes_are_bounded)
{
    size_t n = NODE_BYTES_MAX + 1;
    char *text = malloc(n);
    ck_assert_ptr_nonnull(text);
    memset(text, '#', n);
    ck_ok(parse_n(text, n - 1), err);
    ck_failed(parse_n(text, n), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "longer than 1048576 bytes"));
    struct buf many = BUF_INIT;
    buf_adds(&many, "engine:\n  plugin: cpu\n");
    for (int i = 0; i < NODE_MEMBERS_MAX; i++) {
        buf_addf(&many, "  k%d: 1\n", i);
    }
    ck_failed(parse_n(many.data, many.len), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "c.yaml:4098:3: more than 4096 members"));
    buf_clear(&many);
    /* Nothing that is deep may be slow or use up the stack. */
    memset(text, '[', n - 1);
    ck_failed(parse_n(text, n - 1), CLAAS_ERR_INVALID, err);
    memset(text, '-', n - 1);
    ck_failed(parse_n(text, n - 1), CLAAS_ERR_INVALID, err);
    for (size_t i = 0; i + 1 < n; i += 2) {
        memcpy(text + i, "- ", 2);
    }
    ck_failed(parse_n(text, n - 1), CLAAS_ERR_INVALID, err);
    free(text);
}
END_TEST

START_TEST(cut_files_do_no_harm)
{
    char path[4096];
    struct buf text = BUF_INIT;
    (void)snprintf(path, sizeof path, "%s/conf/claasd.yaml", getenv("abs_top_srcdir"));
    ck_ok(file_read(path, 1 << 20, &text, &err), err);
    for (size_t n = 0; n < text.len; n += 7) {
        int rc = parse_n(text.data, n);
        ck_assert(rc == 0 || rc == CLAAS_ERR_INVALID);
        char kept = text.data[n];
        text.data[n] = (char)(n * 31);
        rc = parse_n(text.data, text.len);
        ck_assert(rc == 0 || rc == CLAAS_ERR_INVALID);
        text.data[n] = kept;
    }
    buf_clear(&text);
}
END_TEST

/* ---- sections ------------------------------------------------------------------------------------------------------- */

static const struct claas_option rows[] = {
    { "model", NULL, NULL, "the model", 1, 0, CLAAS_PATH, CLAAS_REQUIRED },
    { "threads", "2", NULL, "threads", 1, 64, CLAAS_INT, 0 },
    { "teacher.url", NULL, NULL, "url", 1, 0, CLAAS_TEXT, 0 },
    { "teacher.api_key", NULL, NULL, "key", 1, 0, CLAAS_TEXT, CLAAS_SECRET },
    { "routes", NULL, NULL, "anything", 1, 0, CLAAS_JSON, 0 },
    { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
};
enum { MODEL, THREADS, URL, API_KEY, ROUTES };

static int section(const char *yaml, const struct option_table *table, struct option_values *values)
{
    ck_ok(parse(yaml), err);
    return config_section_values(config, &config->engine, table, values, &err);
}

START_TEST(sections_are_read)
{
    struct option_table table;
    struct option_values values = { 0 };
    ck_ok(option_table_copy(rows, sizeof rows[0], "test", &table, &err), err);
    ck_ok(section("engine:\n  plugin: cpu\n  model: m.gguf\n  threads: 4\n"
                  "  teacher:\n    url: http://x\n    api_key_file: secrets/key\n"
                  "  routes: [{to: a, w: 0.5, on: true, off: ~, s: '1'}]\n",
                  &table, &values),
          err);
    ck_assert_str_eq(values.values[MODEL].s, "/etc/claas/m.gguf");
    ck_assert_int_eq(values.values[THREADS].i, 4);
    ck_assert_str_eq(values.values[URL].s, "http://x");
    ck_assert_str_eq(values.values[API_KEY].s, "");
    ck_assert_uint_eq(values.values[API_KEY].given, 1);
    ck_assert_str_eq(values.secrets[API_KEY].file, "/etc/claas/secrets/key");
    ck_assert_str_eq(values.values[ROUTES].s, "[{\"to\":\"a\",\"w\":0.5,\"on\":true,\"off\":null,\"s\":\"1\"}]");
    option_values_clear(&values);
    ck_ok(section("engine:\n  plugin: cpu\n  model: /m\n  teacher: {api_key_env: KEY}\n", &table, &values), err);
    ck_assert_str_eq(values.secrets[API_KEY].env, "KEY");
    option_values_clear(&values);
    option_table_clear(&table);
}
END_TEST

static const struct {
    const char *yaml;
    const char *message;
} bad_sections[] = {
    { "engine:\n  plugin: cpu\n", "c.yaml:1:1: model is required: a path (the model)" },
    { "engine:\n  plugin: cpu\n  model: m\n  thread: 2\n",
      "c.yaml:4:3: unknown key 'thread' in engine, expected one of: model, threads, teacher, routes, plugin" },
    { "engine:\n  plugin: cpu\n  shares_device: none\n", "c.yaml:3:3: unknown key 'shares_device' in engine" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher:\n    uri: x\n",
      "c.yaml:5:5: unknown key 'uri' in engine.teacher, expected one of: url, api_key_file" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher: x\n", "c.yaml:4:12: teacher: expected keys below it" },
    { "engine:\n  plugin: cpu\n  model: [m]\n", "c.yaml:3:10: model: expected a path, found a list" },
    { "engine:\n  plugin: cpu\n  model: m\n  threads: 65\n",
      "c.yaml:4:12: threads: expected a whole number from 1 to 64, found '65'" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher: {api_key: hush-hush}\n", "c.yaml:4:22: teacher.api_key: a secret must not" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher: {api_key: [hush-hush]}\n", "c.yaml:4:22: teacher.api_key: expected" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher: {api_key_file: a, api_key_env: B}\n",
      "c.yaml:4:43: teacher.api_key: given twice" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher: {api_key_file: }\n", "c.yaml:4:27: teacher.api_key: expected the path" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher: {api_key_env: [A]}\n", "c.yaml:4:26: teacher.api_key: expected the name" },
    { "engine:\n  plugin: cpu\n  model: m\n  teacher.url: x\n", "c.yaml:4:3: unknown key 'teacher.url'" },
};

START_TEST(bad_sections_are_refused)
{
    struct option_table table;
    struct option_values values = { 0 };
    ck_ok(option_table_copy(rows, sizeof rows[0], "test", &table, &err), err);
    ck_failed(section(bad_sections[_i].yaml, &table, &values), CLAAS_ERR_INVALID, err);
    ck_assert_msg(strncmp(err.message, bad_sections[_i].message, strlen(bad_sections[_i].message)) == 0,
                  "'%s' does not begin: %s", bad_sections[_i].message, err.message);
    ck_assert_ptr_null(strstr(err.message, "hush"));
    ck_assert_ptr_null(values.values);
    option_table_clear(&table);
}
END_TEST

START_TEST(later_refusals_get_a_place)
{
    ck_ok(parse("listen: localhost:80\nengine:\n  plugin: cpu\n  teacher:\n    url: x\n"), err);
    (void)err_set(&err, CLAAS_ERR_NOT_FOUND, "plugin", "there is no plugin 'cpu'");
    ck_assert_int_eq(config_section_blame(config, &config->engine, "plugin", &err), CLAAS_ERR_NOT_FOUND);
    ck_assert_str_eq(err.message, "c.yaml:3:11: there is no plugin 'cpu'");
    (void)err_set(&err, CLAAS_ERR_INVALID, "", "no");
    (void)config_section_blame(config, &config->engine, "teacher.url", &err);
    ck_assert_str_eq(err.message, "c.yaml:5:10: no");
    (void)err_set(&err, CLAAS_ERR_INVALID, "", "no");
    (void)config_section_blame(config, &config->engine, "", &err);
    ck_assert_str_eq(err.message, "c.yaml:2:1: no");
    (void)err_set(&err, CLAAS_ERR_INVALID, "", "no");
    (void)config_section_blame(config, &config->storage, "plugin", &err);
    ck_assert_str_eq(err.message, "c.yaml:1:1: no");
}
END_TEST

static const struct {
    const char *yaml;
    int same;
} instances[] = {
    { "engine: {plugin: cpu}", 1 },
    { "engine: {plugin: cpu}\ninference: {shares_device: pause}", 1 },
    { "engine: {plugin: cpu}\ninference: {plugin: cpu, shares_device: pause}", 1 },
    { "engine: {plugin: cpu}\ninference: {plugin: cpu, model: other}", 0 },
    { "engine: {plugin: cpu}\ninference: {plugin: vllm}", 0 },
    { "inference: {plugin: cpu}", 0 },
};

START_TEST(one_instance_or_two)
{
    ck_ok(parse(instances[_i].yaml), err);
    ck_assert_int_eq(config_inference_is_engine(config), instances[_i].same);
}
END_TEST

/* ---- files and overrides -------------------------------------------------------------------------------------------- */

static char dir[64];
static char file[128];

static void put_file(const char *text)
{
    (void)snprintf(dir, sizeof dir, "/tmp/claas-config-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    (void)snprintf(file, sizeof file, "%s/c.yaml", dir);
    ck_ok(file_write_durable(file, text, strlen(text), 0600, &err), err);
}

START_TEST(files_are_read)
{
    char wanted[256];
    put_file("state_dir: ./state\nengine: {plugin: cpu}\n");
    ck_ok(config_load(file, &config, &err), err);
    (void)snprintf(wanted, sizeof wanted, "%s/state", dir);
    ck_assert_str_eq(config->state_dir, wanted);
    ck_assert_str_eq(config->file, file);
    config_free(config);
    config = NULL;
    ck_ok(dir_remove(dir, &err), err);
    ck_failed(config_load(file, &config, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_ptr_nonnull(strstr(err.message, file));
    ck_failed(config_load("/", &config, &err), err.code, err);
}
END_TEST

START_TEST(overrides_win)
{
    static const char *const sets[] = { "listen=127.0.0.1:0", "engine.model=a.gguf", "storage.plugin=fs",
                                        "storage.root=/r s", "limits.body=1MiB", "limits.body=2MiB",
                                        "allowed_init_base_models=[a, b]", "default_model=", "engine.url=http://x:1/?a=b" };
    char here[4096];
    char wanted[4200];
    struct option_table table;
    struct option_values values = { 0 };
    static const struct claas_option two[] = {
        { "model", NULL, NULL, "the model", 1, 0, CLAAS_PATH, 0 },
        { "url", NULL, NULL, "url", 1, 0, CLAAS_TEXT, 0 },
        { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
    };
    put_file("listen: 127.0.0.1:80\nengine: {plugin: cpu, model: old}\n");
    ck_ok(config_load_overrides(file, sets, sizeof sets / sizeof sets[0], &config, &err), err);
    ck_ok(dir_remove(dir, &err), err);
    ck_assert_uint_eq(config->listen_port, 0);
    ck_assert_str_eq(config->storage.plugin, "fs");
    ck_assert_int_eq(config->limits.body_bytes, 2 << 20);
    ck_assert_str_eq(config->allowed_init_base_models[1], "b");
    ck_assert_str_eq(config->default_model, "");
    ck_ok(option_table_copy(two, sizeof two[0], "test", &table, &err), err);
    ck_ok(config_section_values(config, &config->engine, &table, &values, &err), err);
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    (void)snprintf(wanted, sizeof wanted, "%s/a.gguf", here);
    ck_assert_str_eq(values.values[0].s, wanted);
    ck_assert_str_eq(values.values[1].s, "http://x:1/?a=b");
    option_values_clear(&values);
    option_table_clear(&table);
}
END_TEST

static const struct {
    const char *set;
    const char *message;
} bad_sets[] = {
    { "listen", "--set 'listen': expected KEY=VALUE" },
    { "=x", "expected KEY=VALUE" },
    { "engine.=x", "expected KEY=VALUE" },
    { ".engine=x", "--set .engine:1:1: expected a key" },
    { "lisen=x", "--set lisen:1:1: unknown key 'lisen'" },
    { "listen=0.0.0.0:80", "--set listen:1:1: listen: '0.0.0.0' can be reached" },
    { "listen=", "--set listen:1:1: listen: expected" },
    { "limits.body=many", "--set limits.body:1:1: limits.body: expected a size" },
    { "limits.body=[", "--set limits.body:2:1: not valid YAML" },
    { "limits=5", "--set limits:1:1: limits: expected keys below it" },
    { "listen.port=5", "--set listen.port:1:1: listen: expected text, found keys below it" },
};

START_TEST(bad_overrides_are_refused)
{
    put_file("listen: 127.0.0.1:80\n");
    int rc = config_load_overrides(file, &bad_sets[_i].set, 1, &config, &err);
    struct claas_error ignored;
    ck_ok(dir_remove(dir, &ignored), ignored);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
    ck_assert_msg(strncmp(err.message, bad_sets[_i].message, strlen(bad_sets[_i].message)) == 0 ||
                      strstr(err.message, bad_sets[_i].message) != NULL,
                  "'%s' not in: %s", bad_sets[_i].message, err.message);
}
END_TEST

START_TEST(deep_overrides_are_refused)
{
    char set[256] = "";
    for (int i = 0; i < 60; i++) {
        (void)strncat(set, "a.", sizeof set - strlen(set) - 1);
    }
    (void)strncat(set, "a=1", sizeof set - strlen(set) - 1);
    const char *sets[] = { set };
    put_file("listen: 127.0.0.1:80\n");
    int rc = config_load_overrides(file, sets, 1, &config, &err);
    struct claas_error ignored;
    ck_ok(dir_remove(dir, &ignored), ignored);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
}
END_TEST

/* ---- printing ------------------------------------------------------------------------------------------------------- */

START_TEST(print_can_be_read_again)
{
    struct option_table table;
    struct option_values values = { 0 };
    struct buf first = BUF_INIT;
    struct buf second = BUF_INIT;
    ck_ok(option_table_copy(rows, sizeof rows[0], "test", &table, &err), err);
    ck_ok(section("default_model: \"a\\\"b\\\\c\\n\"\n"
                  "engine:\n  plugin: cpu\n  model: /m\n  teacher: {url: u, api_key_file: /secret/file}\n"
                  "  routes: {a: [1, two]}\n"
                  "training: {rate: 3.0e-5, \"odd: key\": \"3\", list: [a, {b: \"yes\"}], off: true, none: }\nlimits: {body: 3MiB, lock_timeout: 90s}\n",
                  &table, &values),
          err);
    struct config_print_section known = { &config->engine, &values };
    ck_ok(config_print(config, &known, 1, &first, &err), err);
    const char *text = buf_str(&first);
    ck_assert_ptr_nonnull(strstr(text, "listen: \"127.0.0.1:8080\"\n"));
    ck_assert_ptr_nonnull(strstr(text, "  body: 3MiB\n"));
    ck_assert_ptr_nonnull(strstr(text, "engine:\n  plugin: \"cpu\"\n  model: \"/m\"\n  threads: 2\n"));
    ck_assert_ptr_nonnull(strstr(text, "  teacher:\n    url: \"u\"\n    api_key_file: \"/secret/file\"\n"));
    ck_assert_ptr_nonnull(strstr(text, "training:\n  # as written: "));
    ck_assert_ptr_nonnull(strstr(text, "\n  \"rate\": 3.0e-5\n  \"odd: key\": \"3\"\n"
                                       "  \"list\": [a, {\"b\": \"yes\"}]\n  \"off\": true\n  \"none\": null\n"));
    option_values_clear(&values);
    char *copy = strdup(text);
    ck_ok(section(copy, &table, &values), err);
    free(copy);
    ck_assert_str_eq(config->default_model, "a\"b\\c\n");
    ck_assert_int_eq(config->limits.lock_timeout_ms, 90000);
    known = (struct config_print_section){ &config->engine, &values };
    ck_ok(config_print(config, &known, 1, &second, &err), err);
    ck_assert_str_eq(first.data, second.data);
    option_values_clear(&values);
    option_table_clear(&table);
    buf_clear(&first);
    buf_clear(&second);
}
END_TEST

START_TEST(print_shows_no_secret)
{
    struct option_table table;
    struct option_values values = { 0 };
    struct buf out = BUF_INIT;
    ck_assert_int_eq(setenv("CLAAS_TEST_SECRET", "hush-hush", 1), 0);
    ck_ok(option_table_copy(rows, sizeof rows[0], "test", &table, &err), err);
    ck_ok(section("engine: {plugin: cpu, model: m, teacher: {api_key_env: CLAAS_TEST_SECRET}}", &table, &values), err);
    struct config_print_section known = { &config->engine, &values };
    ck_ok(config_print(config, &known, 1, &out, &err), err);
    ck_assert_ptr_null(strstr(buf_str(&out), "hush"));
    ck_assert_ptr_nonnull(strstr(buf_str(&out), "api_key_env: \"CLAAS_TEST_SECRET\""));
    /* A section whose plugin is not known may hold anything: keys alone are shown. */
    ck_ok(parse("engine: {plugin: cpu, password: hush-hush}"), err);
    buf_cut(&out, 0);
    ck_ok(config_print(config, NULL, 0, &out, &err), err);
    ck_assert_ptr_null(strstr(buf_str(&out), "hush"));
    option_values_clear(&values);
    option_table_clear(&table);
    buf_clear(&out);
}
END_TEST

/* ---- table, sample and page ----------------------------------------------------------------------------------------- */

static void read_source(const char *name, struct buf *out)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", getenv("abs_top_srcdir"), name);
    ck_ok(file_read(path, 1 << 20, out, &err), err);
}

/* Takes the '#' from "#key: value"; prose has a blank behind it. */
static void uncomment(const struct buf *in, struct buf *out)
{
    int line_start = 1;
    for (size_t i = 0; i < in->len; i++) {
        char c = in->data[i];
        char next = in->data[i + 1];
        if (c == '#' && line_start && next >= 'a' && next <= 'z') {
            continue;
        }
        line_start = c == '\n' || (line_start && c == ' ');
        buf_addc(out, c);
    }
}

static int is_open(const char *name)
{
    return strncmp(name, "engine.", 7) == 0 || strncmp(name, "storage.", 8) == 0 ||
           strncmp(name, "inference.", 10) == 0 || strncmp(name, "training.", 9) == 0;
}

static void sample_walk(const struct config_node *map, const char *prefix, int *seen)
{
    for (size_t i = 0; i < map->n; i++) {
        char name[256];
        (void)snprintf(name, sizeof name, "%s%s", prefix, map->members[i].key);
        int row = option_find(config_table(), name);
        if (row >= 0) {
            seen[row] = 1;
        } else if (map->members[i].value->kind == NODE_MAP) {
            (void)snprintf(name, sizeof name, "%s%s.", prefix, map->members[i].key);
            sample_walk(map->members[i].value, name, seen);
        } else {
            ck_assert_msg(is_open(name), "the sample has a key '%s' that is in no table", name);
        }
    }
}

START_TEST(sample_has_every_key)
{
    struct buf text = BUF_INIT;
    struct buf full = BUF_INIT;
    int seen[KEYS_COUNT] = { 0 };
    read_source("conf/claasd.yaml", &text);
    ck_ok(parse_n(text.data, text.len), err);
    /* What is not commented out in the core's own keys is the default. */
    for (size_t i = 0; i < config_table()->n; i++) {
        const struct claas_option *row = &config_table()->rows[i];
        ck_assert_msg(row->def || !config->values.values[i].given || is_open(row->name) || row->type == CLAAS_LIST,
                      "%s has no default, but a value in the sample", row->name);
    }
    struct config *sample = config;
    config = NULL;
    ck_ok(parse(""), err);
    for (size_t i = 0; i < config_table()->n; i++) {
        const struct claas_value *a = &sample->values.values[i];
        const struct claas_value *b = &config->values.values[i];
        const char *name = config_table()->rows[i].name;
        ck_assert_msg(is_open(name) || (a->i == b->i && strcmp(a->s ? a->s : "", b->s ? b->s : "") == 0),
                      "%s is not its default in the sample", name);
    }
    config_free(sample);
    uncomment(&text, &full);
    ck_ok(parse_n(full.data, full.len), err);
    sample_walk(config->root, "", seen);
    for (size_t i = 0; i < KEYS_COUNT; i++) {
        ck_assert_msg(seen[i], "'%s' is not in the sample", config_table()->rows[i].name);
    }
    buf_clear(&text);
    buf_clear(&full);
}
END_TEST

START_TEST(quickstart_parses)
{
    struct buf text = BUF_INIT;
    read_source("conf/quickstart.yaml", &text);
    ck_ok(parse_n(text.data, text.len), err);
    ck_assert_str_eq(config->engine.plugin, "cpu");
    ck_assert_str_eq(config->storage.plugin, "fs");
    ck_assert(config_inference_is_engine(config));
    buf_clear(&text);
}
END_TEST

/* How the page writes type and default. */
static void page_line(const struct claas_option *row, char out[256])
{
    static const char *const types[] = { [CLAAS_BOOL] = "truth value", [CLAAS_INT] = "whole number",
                                         [CLAAS_REAL] = "number", [CLAAS_TEXT] = "text", [CLAAS_LIST] = "list",
                                         [CLAAS_PATH] = "path", [CLAAS_BYTES] = "size", [CLAAS_MS] = "duration",
                                         [CLAAS_JSON] = "structure" };
    if (row->def) {
        (void)snprintf(out, 256, ".It Ic %s\n.Pq %s, default %s\n", row->name, types[row->type],
                       row->def[0] ? row->def : "empty");
    } else {
        (void)snprintf(out, 256, ".It Ic %s\n.Pq %s\n", row->name, types[row->type]);
    }
}

START_TEST(page_has_every_key)
{
    struct buf page = BUF_INIT;
    char line[256];
    read_source("man/claasd.yaml.5", &page);
    const char *keys = strstr(buf_str(&page), "\n.Sh KEYS\n");
    ck_assert_ptr_nonnull(keys);
    for (size_t i = 0; i < config_table()->n; i++) {
        page_line(&config_table()->rows[i], line);
        ck_assert_msg(strstr(keys, line) != NULL, "the page lacks:\n%s", line);
    }
    for (const char *p = strstr(keys, "\n.It Ic "); p; p = strstr(p + 1, "\n.It Ic ")) {
        char name[128] = "";
        ck_assert_int_eq(sscanf(p, "\n.It Ic %127s", name), 1);
        ck_assert_msg(option_find(config_table(), name) >= 0, "the page has '%s', which is in no table", name);
    }
    buf_clear(&page);
}
END_TEST

START_TEST(page_tells_what_can_be_reloaded)
{
    struct buf page = BUF_INIT;
    char line[256];
    read_source("man/claasd.yaml.5", &page);
    char *section = strstr(page.data, "\n.Sh RELOAD\n");
    ck_assert_ptr_nonnull(section);
    char *end = strstr(section + 1, "\n.Sh ");
    ck_assert_ptr_nonnull(end);
    *end = '\0';
    for (size_t i = 0; i < config_table()->n; i++) {
        (void)snprintf(line, sizeof line, "\n.It\n.Ic %s\n", config_table()->rows[i].name);
        ck_assert_msg((strstr(section, line) != NULL) == config_reloadable(i), "%s", config_table()->rows[i].name);
    }
    buf_clear(&page);
}
END_TEST

static void tell_fixed(void *ctx, const char *key)
{
    buf_addf(ctx, "%s ", key);
}

/* What may change does, what may not stays as at the start and is told, wherever it stands. */
START_TEST(a_reload_changes_what_it_may)
{
    struct buf told = BUF_INIT;
    ck_ok(parse("listen: 127.0.0.1:1\nlog: {level: error}\nlimits: {body: 1MiB, request_timeout: 5s}\n"
                "engine: {plugin: cpu, model: a, threads: 2}\ntraining: {alpha: 0.5}\nstorage: {plugin: fs, root: /x}\n"
                "allowed_init_base_models: [a, b]\n"), err);
    struct config *boot = config;
    config = NULL;
    ck_ok(parse("listen: 127.0.0.1:2\nlog: {level: debug, levels: {state: trace}}\n"
                "limits: {body: 2MiB, request_timeout: 6s}\n"
                "engine: {plugin: cuda, model: b, device: 1}\ntraining: {alpha: 0.5}\nstorage: {plugin: fs, root: /x}\n"
                "allowed_init_base_models: [a, c]\n"), err);
    config_rebase(config, boot, tell_fixed, &told);
    ck_assert_str_eq(buf_str(&told), "listen engine.plugin allowed_init_base_models limits.body engine.model engine.device "
                                     "engine.threads ");
    ck_assert_int_eq(config->log.level, LOG_DEBUG);
    ck_assert_int_eq(config->log.rooms[log_room_find("state")], LOG_TRACE);
    ck_assert_int_eq(config->limits.request_timeout_ms, 6000);
    ck_assert_int_eq(config->limits.body_bytes, 1 << 20);
    ck_assert_uint_eq(config->listen_port, 1);
    ck_assert_str_eq(config->listen, "127.0.0.1:1");
    ck_assert_str_eq(config->engine.plugin, "cpu");
    ck_assert_str_eq(config->allowed_init_base_models[1], "b");
    config_free(config);
    config = NULL;
    ck_assert_int_eq(boot->limits.request_timeout_ms, 5000);
    ck_assert_str_eq(boot->engine.plugin, "cpu");
    buf_cut(&told, 0);
    ck_ok(parse("listen: 127.0.0.1:1\nlimits: {body: 1MiB}\nstorage: {root: /x, plugin: fs}\n"
                "engine: {threads: 2, plugin: cpu, model: a}\ntraining: {alpha: 0.5}\n"
                "allowed_init_base_models: [a, b]\n"), err);
    config_rebase(config, boot, tell_fixed, &told);
    ck_assert_str_eq(buf_str(&told), "");
    config_free(boot);
    buf_clear(&told);
}
END_TEST

START_TEST(table_is_a_good_table)
{
    struct option_table copy;
    struct claas_option ended[KEYS_COUNT + 1] = { 0 };
    memcpy(ended, config_table()->rows, sizeof ended - sizeof ended[0]);
    ck_ok(option_table_copy(ended, sizeof ended[0], "claasd", &copy, &err), err);
    ck_assert_uint_eq(copy.n, KEYS_COUNT);
    option_table_clear(&copy);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("config");
    TCase *t = tcase_create("config");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, nothing_gives_the_defaults, 0, 5);
    tcase_add_test(t, everything_is_read);
    tcase_add_loop_test(t, bad_files_are_refused, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(t, sizes_are_bounded);
    tcase_add_test(t, cut_files_do_no_harm);
    tcase_add_test(t, sections_are_read);
    tcase_add_loop_test(t, bad_sections_are_refused, 0, sizeof bad_sections / sizeof bad_sections[0]);
    tcase_add_test(t, later_refusals_get_a_place);
    tcase_add_loop_test(t, one_instance_or_two, 0, sizeof instances / sizeof instances[0]);
    tcase_add_test(t, files_are_read);
    tcase_add_test(t, overrides_win);
    tcase_add_loop_test(t, bad_overrides_are_refused, 0, sizeof bad_sets / sizeof bad_sets[0]);
    tcase_add_test(t, deep_overrides_are_refused);
    tcase_add_test(t, print_can_be_read_again);
    tcase_add_test(t, print_shows_no_secret);
    tcase_add_test(t, sample_has_every_key);
    tcase_add_test(t, quickstart_parses);
    tcase_add_test(t, page_has_every_key);
    tcase_add_test(t, page_tells_what_can_be_reloaded);
    tcase_add_test(t, a_reload_changes_what_it_may);
    tcase_add_test(t, table_is_a_good_table);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
