/* SPDX-License-Identifier: MIT */
/* claas adapter …: create, list, show, log, rollback, alias, export, delete. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "cli/client.h"
#include "cli/print.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ADAPTER_EXPORT_MAX_GB = 16 };

/* Takes the body (deletes it) and the path (frees it). */
static int adapter_call(struct cli *c, const char *method, char *path, cJSON *body,
                        const char *const *columns, const char *list)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    int status = 0;
    if (!path || client_call(c, method, path, body, &answer, &err)) {
        status = cli_fail(c, &err);
    } else if (!cli_print_json(c, answer)) {
        if (columns) {
            print_table(json_get(answer, list), columns, stdout);
        } else {
            print_object(answer, 0, stdout);
        }
    }
    cJSON_Delete(answer);
    cJSON_Delete(body);
    free(path);
    return status;
}

static char *adapter_path(const char *path, const char *name, const char *value)
{
    const char *const pairs[] = { name, value, NULL };
    return client_path(path, pairs);
}

static int adapter_add_modules(cJSON *body, const char *list)
{
    cJSON *modules = cJSON_AddArrayToObject(body, "target_modules");
    while (modules && *list) {
        char name[64];
        size_t n = strcspn(list, ",");
        (void)snprintf(name, sizeof name, "%.*s", (int)n, list);
        if (!cJSON_AddItemToArray(modules, cJSON_CreateString(name))) {
            return CLI_FAILED;
        }
        list += n + (list[n] == ',');
    }
    return modules ? 0 : CLI_FAILED;
}

int cli_adapter_create(struct cli *c)
{
    cJSON *body = cJSON_CreateObject();
    const char *base = cli_value(c, "base");
    const char *modules = cli_value(c, "modules");
    int status = body && cJSON_AddStringToObject(body, "lora_id", c->args[0]) ? 0 : CLI_FAILED;
    if (status == 0 && base && !cJSON_AddStringToObject(body, "base_model", base)) {
        status = CLI_FAILED;
    }
    if (status == 0) {
        status = cli_add_number(c, body, "rank", "lora_r");
    }
    if (status == 0) {
        status = cli_add_number(c, body, "alpha", "lora_alpha");
    }
    if (status == 0 && modules) {
        status = adapter_add_modules(body, modules);
    }
    if (status) {
        cJSON_Delete(body);
        return status;
    }
    return adapter_call(c, "POST", strdup("/v1/lora/init"), body, NULL, NULL);
}

int cli_adapter_list(struct cli *c)
{
    static const char *const columns[] = { "id", NULL };
    const char *const pairs[] = { "prefix", c->n_args ? c->args[0] : NULL, "limit",
                                  cli_value(c, "limit"), NULL };
    return adapter_call(c, "GET", client_path("/v1/lora", pairs), NULL, columns, "loras");
}

int cli_adapter_show(struct cli *c)
{
    return adapter_call(c, "GET", adapter_path("/v1/adapters", "id", c->args[0]), NULL, NULL, NULL);
}

int cli_adapter_log(struct cli *c)
{
    static const char *const columns[] = { "version", "kind", "time", "serve", "metrics.total_loss",
                                           "owner",   "job",  NULL };
    const char *const pairs[] = { "id", c->args[0], "limit", cli_value(c, "limit"), NULL };
    return adapter_call(c, "GET", client_path("/v1/adapters/versions", pairs), NULL, columns,
                        "versions");
}

int cli_adapter_rollback(struct cli *c)
{
    char *end;
    errno = 0;
    unsigned long long version = strtoull(c->args[1], &end, 10);
    if (errno || *end || end == c->args[1] || version == 0 || version > 99999999) {
        return cli_complain("'%s' is no version number", c->args[1]);
    }
    cJSON *body = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(body, "id", c->args[0]) ||
        !cJSON_AddNumberToObject(body, "version", (double)version)) {
        cJSON_Delete(body);
        return CLI_FAILED;
    }
    return adapter_call(c, "POST", strdup("/v1/adapters/rollback"), body, NULL, NULL);
}

int cli_adapter_alias(struct cli *c)
{
    static const char *const columns[] = { "alias", "id", NULL };
    if (c->n_args == 0) {
        return adapter_call(c, "GET", strdup("/v1/adapters/aliases"), NULL, columns, "aliases");
    }
    if (cli_value(c, "delete")) {
        return adapter_call(c, "DELETE", adapter_path("/v1/adapters/aliases", "alias", c->args[0]),
                            NULL, NULL, NULL);
    }
    if (c->n_args < 2) {
        return cli_complain("adapter alias needs ALIAS and ID, or ALIAS and --delete");
    }
    cJSON *body = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(body, "alias", c->args[0]) ||
        !cJSON_AddStringToObject(body, "id", c->args[1])) {
        cJSON_Delete(body);
        return CLI_FAILED;
    }
    return adapter_call(c, "POST", strdup("/v1/adapters/aliases"), body, NULL, NULL);
}

/* Downloads beside the target, then renames: an interrupted export leaves no half file under the
 * name. */
static int adapter_export_to(struct cli *c, const char *path, const char *file)
{
    struct claas_error err = ERR_INIT;
    struct buf tmp = BUF_INIT;
    buf_addf(&tmp, "%s.part", file);
    if (tmp.failed) {
        return CLI_FAILED;
    }
    FILE *to = fopen(tmp.data, "wbe");
    int rc = to ? client_download(c, path, to, (size_t)ADAPTER_EXPORT_MAX_GB << 30, &err)
                : err_errno(&err, errno, file, "cannot create '%s'", tmp.data);
    if (to && (fflush(to) || fsync(fileno(to))) && rc == 0) {
        rc = err_errno(&err, errno, file, "cannot write '%s'", file);
    }
    if (to && fclose(to) && rc == 0) {
        rc = err_errno(&err, errno, file, "cannot write '%s'", file);
    }
    if (rc == 0 && rename(tmp.data, file)) {
        rc = err_errno(&err, errno, file, "cannot replace '%s'", file);
    }
    if (rc) {
        (void)unlink(tmp.data); /* the error already tells what matters */
    }
    buf_clear(&tmp);
    return rc ? cli_fail(c, &err) : 0;
}

int cli_adapter_export(struct cli *c)
{
    const char *output = cli_value(c, "output");
    struct buf name = BUF_INIT;
    for (const char *p = c->args[0]; *p; p++) {
        buf_adds(&name, *p == '/' ? "__" : (char[2]){ *p, '\0' });
    }
    buf_adds(&name, ".zip");
    char *path = adapter_path("/v1/lora/export", "lora_id", c->args[0]);
    int status = CLI_FAILED;
    if (path && !name.failed) {
        status = adapter_export_to(c, path, output ? output : name.data);
    }
    if (status == 0 && !c->quiet) {
        (void)printf("%s\n", output ? output : name.data);
    }
    free(path);
    buf_clear(&name);
    return status;
}

/* The daemon says deleted: false of what is not there; who types a name wants to know. */
int cli_adapter_delete(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    char *path = adapter_path("/v1/lora", "lora_id", c->args[0]);
    int rc = path ? client_call(c, "DELETE", path, NULL, &answer, &err) : err_oom(&err, "a request");
    if (rc == 0 && !cJSON_IsTrue(json_get(answer, "deleted")) && !cli_value(c, "if-exists")) {
        rc = err_set(&err, CLAAS_ERR_NOT_FOUND, "lora_id",
                     "cannot delete '%s': no adapter and no alias has this name", c->args[0]);
    }
    int status = rc ? cli_fail(c, &err) : 0;
    if (rc == 0 && !cli_print_json(c, answer)) {
        print_object(answer, 0, stdout);
    }
    cJSON_Delete(answer);
    free(path);
    return status;
}
