/* SPDX-License-Identifier: MIT */
/* claas backup, claas restore: copies of claasd's records, by way of the state directory. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *state_dir(const struct cli *c)
{
    const char *dir = cli_value(c, "state-dir");
    return dir ? dir : "/var/lib/claas";
}

int cli_backup(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    int replace = cli_value(c, "force") != NULL;
    int rc = state_backup(state_dir(c), c->args[0], replace, &err);
    if (rc == CLAAS_ERR_CONFLICT && !replace && strcmp(err.what, "file") == 0) {
        rc = err_set(&err, rc, "file", "cannot write '%s': it is there already; --force replaces it", c->args[0]);
    }
    if (rc) {
        return cli_fail(c, &err);
    }
    if (!c->quiet) {
        (void)printf("%s\n", c->args[0]);
    }
    return 0;
}

int cli_restore(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    char *kept = NULL;
    if (state_restore(state_dir(c), c->args[0], &kept, &err)) {
        return cli_fail(c, &err);
    }
    if (!c->quiet && kept) {
        (void)printf("%s\n", kept);
    }
    (void)fprintf(stderr, "claas: API keys are those of the backup, too: keys made since are gone, and keys revoked since count "
                          "again; see claas key list\n");
    free(kept);
    return 0;
}
