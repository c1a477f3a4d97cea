/* SPDX-License-Identifier: MIT */
/* claas key …: API keys, made and revoked in the state directory, whether or not claasd runs. */
#include "config.h"

#include "cli/cli.h"

#include "access/access.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "cli/client.h"
#include "cli/print.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define KEY_DAY_NS (INT64_C(24) * 3600 * 1000000000)

/* A mistyped directory must not look like one without keys. Before claasd has ever run, a key may be made in a directory that
 * is there; nothing is to be seen in it. */
static int key_place(const char *dir, int makes, int quiet, struct claas_error *err)
{
    struct stat st;
    char *file = path_join(dir, "state.db");
    if (!file) {
        return err_oom(err, "the state database");
    }
    int there = stat(file, &st) == 0;
    int rc = 0;
    if (!there && (!makes || stat(dir, &st) || !S_ISDIR(st.st_mode))) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "state-dir", "there is no state of claasd in '%s'; say where with --state-dir",
                     dir);
    } else if (!there && !quiet) {
        (void)fprintf(stderr, "claas: '%s' has not been used by claasd yet: its database is made\n", dir);
    }
    free(file);
    return rc;
}

/* While claasd holds the lock, the database is there and of its version; else we open it as claasd would. */
static int key_open(const struct cli *c, int makes, struct state **out, struct claas_error *err)
{
    const char *dir = cli_value(c, "state-dir");
    dir = dir ? dir : "/var/lib/claas";
    int rc = key_place(dir, makes, c->quiet, err);
    if (rc) {
        return rc;
    }
    rc = state_open(dir, NULL, out, err);
    if (rc == CLAAS_ERR_CONFLICT) {
        err_clear(err);
        rc = state_open_beside(dir, out, err);
    }
    return rc;
}

/* A whole number from 1 on; 0 when the option was not given. */
static int key_number(const struct cli *c, const char *option, int64_t most, int64_t *out)
{
    const char *text = cli_value(c, option);
    if (!text) {
        return 0;
    }
    errno = 0;
    char *end = NULL;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || v < 1 || v > most) {
        return cli_complain("option '--%s' needs a whole number from 1 to %lld, not '%s'", option, (long long)most, text);
    }
    *out = v;
    return 0;
}

static int key_parse(const struct cli *c, struct access_key *k)
{
    const char *rights = cli_value(c, "rights");
    const char *prefix = cli_value(c, "prefix");
    struct claas_error err = ERR_INIT;
    int64_t days = 0;
    *k = (struct access_key){ .name = c->args[0], .prefix = prefix ? prefix : "" };
    if (access_rights_parse(rights ? rights : "chat,feedback", &k->rights, &err)) {
        return cli_complain("%s", err.message);
    }
    int status = key_number(c, "expires", 36500, &days);
    status = status ? status : key_number(c, "requests-a-minute", INT64_C(1) << 40, &k->requests_a_minute);
    status = status ? status : key_number(c, "steps-an-hour", INT64_C(1) << 40, &k->steps_an_hour);
    status = status ? status : key_number(c, "bytes-a-day", INT64_C(1) << 53, &k->bytes_a_day);
    k->lasts_ns = days * KEY_DAY_NS;
    return status;
}

int cli_key_add(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    struct state *s = NULL;
    struct access_key k;
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    int status = key_parse(c, &k);
    if (status) {
        return status;
    }
    int rc = key_open(c, 1, &s, &err);
    if (rc == 0) {
        rc = access_key_make(s, &k, id, token, &err);
    }
    state_close(s);
    if (rc) {
        return cli_fail(c, &err);
    }
    if (c->json) {
        (void)printf("{\"id\":\"%s\",\"key\":\"%s\"}\n", id, token);
    } else {
        (void)printf("%s\n", token);
    }
    if (!c->quiet && !c->json) {
        (void)fprintf(stderr, "claas: this is the only time the key is shown\n");
    }
    return 0;
}

int cli_key_revoke(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    struct state *s = NULL;
    int rc = key_open(c, 0, &s, &err);
    if (rc == 0) {
        rc = state_key_revoke(s, c->args[0], clock_real_ns(), &err);
    }
    state_close(s);
    return rc ? cli_fail(c, &err) : 0;
}

static int key_put_time(cJSON *o, const char *name, int64_t ns)
{
    char text[CLOCK_TEXT] = "";
    if (ns > 0) {
        clock_format(ns, text);
    }
    return cJSON_AddStringToObject(o, name, text) != NULL;
}

static cJSON *key_row(const struct state_key_row *k)
{
    char rights[ACCESS_RIGHTS_CAP];
    cJSON *o = cJSON_CreateObject();
    access_rights_format(k->rights, rights);
    const char *status = k->revoked_ns                                              ? "revoked"
                         : k->expires_ns && clock_real_ns() >= k->expires_ns ? "expired"
                                                                                    : "good";
    if (!cJSON_AddStringToObject(o, "id", k->id) || !cJSON_AddStringToObject(o, "name", k->name) ||
        !cJSON_AddStringToObject(o, "rights", rights) || !cJSON_AddStringToObject(o, "prefix", k->prefix) ||
        !cJSON_AddStringToObject(o, "status", status) || !key_put_time(o, "created", k->created_ns) ||
        !key_put_time(o, "expires", k->expires_ns) || !key_put_time(o, "used", k->use.used_ns) ||
        !cJSON_AddNumberToObject(o, "requests_a_minute", (double)k->requests_a_minute) ||
        !cJSON_AddNumberToObject(o, "steps_an_hour", (double)k->steps_an_hour) ||
        !cJSON_AddNumberToObject(o, "bytes_a_day", (double)k->bytes_a_day)) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

int cli_key_list(struct cli *c)
{
    static const char *const columns[] = { "id", "name", "rights", "prefix", "status", "created", "expires", "used", NULL };
    struct claas_error err = ERR_INIT;
    struct state *s = NULL;
    struct state_keys keys = { 0 };
    int rc = key_open(c, 0, &s, &err);
    if (rc == 0) {
        rc = state_key_list(s, &keys, &err);
    }
    state_close(s);
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; rc == 0 && i < keys.n; i++) {
        cJSON *row = key_row(&keys.at[i]);
        if (!row || !cJSON_AddItemToArray(list, row)) {
            cJSON_Delete(row);
            rc = err_oom(&err, "listing keys");
        }
    }
    state_keys_clear(&keys);
    if (rc == 0 && !cli_print_json(c, list)) {
        print_table(list, columns, stdout);
    }
    cJSON_Delete(list);
    return rc ? cli_fail(c, &err) : 0;
}
