/* SPDX-License-Identifier: MIT */
/* claas rollout delete: forgets one recorded answer, those of an end user, or all that a key has. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "cli/client.h"
#include "cli/print.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char id_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/* What is deleted does not come back: who types is asked, who writes scripts says --yes. */
static int delete_confirmed(const struct cli *c)
{
    char line[16];
    if (cli_value(c, "yes")) {
        return 0;
    }
    if (!isatty(STDIN_FILENO)) {
        return cli_complain("rollout delete needs --yes where nobody can be asked: what is deleted does not come back");
    }
    (void)fputs("What is deleted does not come back. Delete it? [y/N] ", stderr);
    if (!fgets(line, sizeof line, stdin) || (line[0] != 'y' && line[0] != 'Y')) {
        (void)fputs("claas: nothing was deleted\n", stderr);
        return CLI_FAILED;
    }
    return 0;
}

static char *delete_path(const struct cli *c)
{
    const char *const pairs[] = { "user", cli_value(c, "user"), "owner", cli_value(c, "owner"), NULL };
    struct buf path = BUF_INIT;
    if (c->n_args == 0) {
        return client_path("/v1/rollouts", pairs);
    }
    buf_addf(&path, "/v1/rollouts/%s", c->args[0]);
    return path.failed ? NULL : buf_take(&path);
}

static void delete_show(const cJSON *answer)
{
    static const char *const columns[] = { "adapter", "version", "feedback", NULL };
    const cJSON *rollouts = json_get(answer, "rollouts");
    const cJSON *records = json_get(answer, "feedback_records");
    const cJSON *versions = json_get(answer, "versions_trained");
    (void)printf("deleted %.0f rollouts, emptied %.0f feedback records, cancelled %d jobs\n",
                 rollouts ? rollouts->valuedouble : 0, records ? records->valuedouble : 0,
                 cJSON_GetArraySize(json_get(answer, "jobs_cancelled")));
    if (cJSON_GetArraySize(versions) > 0) {
        (void)puts("these versions were trained with it, and stay:");
        print_table(versions, columns, stdout);
    }
    if (cJSON_IsTrue(json_get(answer, "more_versions"))) {
        (void)puts("and more");
    }
}

int cli_rollout_delete(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    int whose = cli_value(c, "user") || cli_value(c, "owner");
    if ((c->n_args > 0) == whose) {
        return cli_complain("rollout delete needs an ID, or --user or --owner");
    }
    if (c->n_args > 0 && c->args[0][strspn(c->args[0], id_characters)]) {
        return cli_complain("'%s' is no completion id", c->args[0]);
    }
    int status = delete_confirmed(c);
    if (status) {
        return status;
    }
    char *path = delete_path(c);
    int rc = path ? client_call(c, "DELETE", path, NULL, &answer, &err) : err_oom(&err, "a request");
    if (rc == 0 && c->n_args > 0 && !cJSON_IsTrue(json_get(answer, "deleted"))) {
        rc = err_set(&err, CLAAS_ERR_NOT_FOUND, "id", "cannot delete '%s': there is no such rollout", c->args[0]);
    }
    status = rc ? cli_fail(c, &err) : 0;
    if (rc == 0 && !cli_print_json(c, answer)) {
        delete_show(answer);
    }
    cJSON_Delete(answer);
    free(path);
    return status;
}
