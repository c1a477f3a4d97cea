/* SPDX-License-Identifier: MIT */
/* claas plugin …: what the plugin directory holds. Every file is opened in a child process, so that
 * a broken one costs its own line only. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "base/file.h"
#include "cli/print.h"
#include "host/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLUGIN_REPORT_MAX = 1 << 20, PLUGIN_SECONDS = 30 };

static cJSON *plugin_kinds(uint32_t kinds)
{
    static const char *const names[] = { "engine", "storage", "inference", "text" };
    cJSON *list = cJSON_CreateArray();
    for (unsigned i = 0; i < 4; i++) {
        if (kinds & 1u << i) {
            cJSON_AddItemToArray(list, cJSON_CreateString(names[i]));
        }
    }
    return list;
}

static cJSON *plugin_options(const struct option_table *table)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < table->n; i++) {
        const struct claas_option *row = &table->rows[i];
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", row->name);
        cJSON_AddStringToObject(o, "type", option_type_name(row->type));
        cJSON_AddStringToObject(o, "default", row->def ? row->def : "");
        cJSON_AddBoolToObject(o, "required", (row->flags & CLAAS_REQUIRED) != 0);
        cJSON_AddStringToObject(o, "help", row->help);
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static cJSON *plugin_describe(const char *name, struct claas_error *err)
{
    struct host *host = NULL;
    struct host_module *module;
    cJSON *o = NULL;
    if (host_new(&host, NULL, err) == 0 && host_module_load(host, name, &module, err) == 0) {
        const struct claas_plugin *p = host_module_plugin(module);
        o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", name);
        cJSON_AddStringToObject(o, "version", p->version);
        cJSON_AddStringToObject(o, "summary", p->summary);
        cJSON_AddStringToObject(o, "licence", p->licence);
        cJSON_AddStringToObject(o, "file", host_module_file(module));
        cJSON_AddItemToObject(o, "kinds", plugin_kinds(host_module_kinds(module)));
        cJSON_AddItemToObject(o, "options", plugin_options(host_module_options(module)));
    }
    host_free(host);
    return o;
}

/* In the child: writes a JSON object, the description or {"error": …, "code": …}. */
static void plugin_report(const char *name, int fd)
{
    struct claas_error err = ERR_INIT;
    struct claas_error ignored = ERR_INIT;
    cJSON *o = plugin_describe(name, &err);
    if (!o) {
        o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", name);
        cJSON_AddStringToObject(o, "error", err.message);
        cJSON_AddNumberToObject(o, "code", err.code);
    }
    char *text = json_print(o);
    if (text) {
        (void)fd_write_all(fd, text, strlen(text), "pipe",
                           &ignored); /* the parent sees a short report */
    }
}

/* What a child said of plugin `name`; an object with "error" when it said nothing. */
static cJSON *plugin_ask(const char *name)
{
    struct claas_error err = ERR_INIT;
    struct buf report = BUF_INIT;
    cJSON *o = NULL;
    int ends[2];
    if (pipe(ends)) {
        return NULL;
    }
    pid_t child = fork();
    if (child == 0) {
        (void)close(ends[0]);
        (void)alarm(PLUGIN_SECONDS); /* one that never comes back is killed */
        plugin_report(name, ends[1]);
        _exit(0);
    }
    (void)close(ends[1]);
    char chunk[4096];
    ssize_t n;
    while (report.len < PLUGIN_REPORT_MAX && ((n = read(ends[0], chunk, sizeof chunk)) > 0 ||
                                              (n < 0 && errno == EINTR))) {
        buf_add(&report, chunk, n > 0 ? (size_t)n : 0);
    }
    (void)close(ends[0]);
    int how = 0;
    while (child > 0 && waitpid(child, &how, 0) < 0 && errno == EINTR) {
    }
    if (child < 0 || json_parse(buf_str(&report), report.len, "report", &o, &err)) {
        o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", name);
        cJSON_AddStringToObject(o, "error", "the plugin crashed or hung while it was loaded");
        cJSON_AddNumberToObject(o, "code", CLAAS_ERR_INTERNAL);
    }
    buf_clear(&report);
    return o;
}

static void plugin_add_to_list(void *ctx, const char *name)
{
    cJSON *o = plugin_ask(name);
    if (o) {
        cJSON_DeleteItemFromObjectCaseSensitive(o, "options");
        cJSON_AddItemToArray(ctx, o);
    }
}

int cli_plugin_list(struct cli *c)
{
    static const char *const columns[] = { "name", "version", "kinds", "summary", "error", NULL };
    struct claas_error err = ERR_INIT;
    struct host *host = NULL;
    cJSON *list = cJSON_CreateArray();
    int status = 0;
    if (host_new(&host, NULL, &err) || host_module_list(host, plugin_add_to_list, list, &err)) {
        status = cli_fail(c, &err);
    } else if (!cli_print_json(c, list)) {
        print_table(list, columns, stdout);
    }
    cJSON_Delete(list);
    host_free(host);
    return status;
}

static void plugin_print(const cJSON *o)
{
    static const char *const columns[] = { "name", "type", "default", "required", "help", NULL };
    cJSON *copy = cJSON_Duplicate(o, 1);
    cJSON_DeleteItemFromObjectCaseSensitive(copy, "options");
    print_object(copy, 0, stdout);
    cJSON_Delete(copy);
    (void)puts("options:");
    print_table(json_get(o, "options"), columns, stdout);
}

int cli_plugin_show(struct cli *c)
{
    cJSON *o = plugin_ask(c->args[0]);
    const char *error = cJSON_GetStringValue(json_get(o, "error"));
    int status = 0;
    if (!o || error) {
        struct claas_error err = ERR_INIT;
        const cJSON *code = json_get(o, "code");
        (void)err_set(&err, cJSON_IsNumber(code) ? code->valueint : CLAAS_ERR_INTERNAL, "plugin",
                      "%s", error ? error : "cannot start a process");
        (void)cli_fail(c, &err);
        status = CLI_PLUGIN;
    } else if (!cli_print_json(c, o)) {
        plugin_print(o);
    }
    cJSON_Delete(o);
    return status;
}
