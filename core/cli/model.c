/* SPDX-License-Identifier: MIT */
/* claas model …: fetch a file and check its digest; what an engine says of it. No daemon is needed.
 */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "base/sha256.h"
#include "cli/client.h"
#include "cli/print.h"
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MODEL_FETCH_MAX_GB = 512, MODEL_FETCH_TRIES = 4 };

/* Digest of the whole open file. */
static int model_check_digest(int fd, const char *name, const struct claas_digest *wanted,
                              struct claas_error *err)
{
    struct stat st;
    struct claas_digest got;
    char hex[SHA256_HEX];
    if (fstat(fd, &st)) {
        return err_errno(err, errno, name, "cannot read '%s'", name);
    }
    int rc = sha256_of_fd(fd, (uint64_t)st.st_size, &got, err);
    if (rc == 0 && !sha256_equal(&got, wanted)) {
        sha256_hex(&got, hex);
        rc = err_set(err, CLAAS_ERR_CORRUPT, "sha256",
                     "'%s' has the SHA-256 %s, not the one asked for", name, hex);
    }
    return rc;
}

static int model_fetch_once(struct cli *c, const char *part, const struct claas_digest *wanted,
                            struct claas_error *err)
{
    FILE *to = fopen(part, "w+be");
    if (!to) {
        return err_errno(err, errno, part, "cannot create '%s'", part);
    }
    int rc = client_download(c, c->args[0], to, (size_t)MODEL_FETCH_MAX_GB << 30, err);
    if (rc == 0 && (fflush(to) || fsync(fileno(to)))) {
        rc = err_errno(err, errno, part, "cannot write '%s'", part);
    }
    if (rc == 0) {
        rc = model_check_digest(fileno(to), part, wanted, err);
    }
    if (fclose(to) && rc == 0) {
        rc = err_errno(err, errno, part, "cannot write '%s'", part);
    }
    return rc;
}

/* 1 if `file` is already there with the digest. */
static int model_is_there(const char *file, const struct claas_digest *wanted)
{
    struct claas_error ignored = ERR_INIT;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    int there = fd >= 0 && model_check_digest(fd, file, wanted, &ignored) == 0;
    if (fd >= 0) {
        (void)close(fd); /* opened for reading */
    }
    return there;
}

static int model_fetch_to(struct cli *c, const char *file, const struct claas_digest *wanted)
{
    struct claas_error err = ERR_INIT;
    struct buf part = BUF_INIT;
    buf_addf(&part, "%s.part", file);
    if (part.failed) {
        return CLI_FAILED;
    }
    int rc = CLAAS_ERR_UNAVAILABLE;
    for (unsigned attempt = 1; rc && attempt <= MODEL_FETCH_TRIES; attempt++) {
        if (attempt > 1) {
            (void)fprintf(stderr, "claas: %s; trying again\n", err.message);
            (void)sleep(attempt);
        }
        rc = model_fetch_once(c, part.data, wanted, &err);
        if (rc && !(err.flags & CLAAS_RETRY) && rc != CLAAS_ERR_CORRUPT) {
            break;
        }
    }
    if (rc == 0 && rename(part.data, file)) {
        rc = err_errno(&err, errno, file, "cannot replace '%s'", file);
    }
    if (rc) {
        (void)unlink(part.data); /* the error already tells what matters */
    }
    buf_clear(&part);
    return rc ? cli_fail(c, &err) : 0;
}

int cli_model_fetch(struct cli *c)
{
    struct claas_digest wanted;
    const char *hex = cli_value(c, "sha256");
    const char *file = cli_value(c, "output");
    if (!hex || !sha256_parse(hex, &wanted)) {
        return cli_complain("model fetch needs --sha256 with 64 lower-case hexadecimal digits");
    }
    if (strncmp(c->args[0], "https://", 8) != 0 && strncmp(c->args[0], "http://", 7) != 0) {
        return cli_complain("'%s' is no http or https address", c->args[0]);
    }
    if (!file) {
        file = strrchr(c->args[0], '/') + 1;
        if (!*file || strpbrk(file, "?#%")) {
            return cli_complain("the address names no file; use --output");
        }
    }
    int status = model_is_there(file, &wanted) ? 0 : model_fetch_to(c, file, &wanted);
    if (status == 0 && !c->quiet) {
        (void)printf("%s\n", file);
    }
    return status;
}

static cJSON *model_describe(struct host_instance *engine, struct claas_error *err)
{
    struct claas_model m = { .size = sizeof m };
    if (host_model(engine, &m, err)) {
        return NULL;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", m.name);
    cJSON_AddStringToObject(o, "base", m.base);
    cJSON_AddStringToObject(o, "tokenizer", m.tokenizer);
    cJSON_AddNumberToObject(o, "vocab", m.vocab);
    cJSON_AddNumberToObject(o, "context", m.context);
    cJSON *stop = cJSON_AddArrayToObject(o, "stop_ids");
    for (uint32_t i = 0; i < m.n_stop; i++) {
        cJSON_AddItemToArray(stop, cJSON_CreateNumber(m.stop_ids[i]));
    }
    if (!o) {
        (void)err_oom(err, "describing a model");
    }
    return o;
}

/* Opens the engine plugin on the file, as the daemon would, and asks it. */
static cJSON *model_ask(struct host *host, const char *plugin, const char *file, int *out_no_plugin,
                        struct claas_error *err)
{
    struct host_module *module;
    struct host_instance *engine = NULL;
    struct option_values values = { 0 };
    cJSON *described = NULL;
    int rc = host_module_load(host, plugin, &module, err);
    *out_no_plugin = rc != 0;
    cJSON *options = cJSON_CreateObject();
    if (rc == 0 && !cJSON_AddStringToObject(options, "model", file)) {
        rc = err_oom(err, "describing a model");
    }
    if (rc == 0) {
        rc = option_values_from_json(&values, host_module_options(module), options, NULL, NULL,
                                     NULL, err);
    }
    if (rc == 0) {
        rc = host_instance_open(module, "model", CLAAS_ENGINE, &values, NULL, NULL, &engine, err);
    }
    if (rc == 0) {
        described = model_describe(engine, err);
    }
    host_instance_close(engine);
    option_values_clear(&values);
    cJSON_Delete(options);
    return described;
}

int cli_model_show(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    struct host *host = NULL;
    const char *plugin = cli_value(c, "plugin");
    char *file = realpath(c->args[0], NULL);
    cJSON *described = NULL;
    int no_plugin = 0;
    if (!file) {
        (void)err_errno(&err, errno, c->args[0], "cannot open '%s'", c->args[0]);
    } else if (host_new(&host, NULL, &err) == 0) {
        described = model_ask(host, plugin ? plugin : "cpu", file, &no_plugin, &err);
    }
    int status = described ? 0 : cli_fail(c, &err);
    status = no_plugin ? CLI_PLUGIN : status;
    if (described && !cli_print_json(c, described)) {
        print_object(described, 0, stdout);
    }
    cJSON_Delete(described);
    host_free(host);
    free(file);
    return status;
}
