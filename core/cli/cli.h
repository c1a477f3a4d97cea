/* SPDX-License-Identifier: MIT */
/* The command line: what every command gets, and what it may use to talk to the daemon and to the
 * user. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/buf.h"
#include "base/json.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdio.h>

/* Exit statuses (claas(1)). */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_UNSUPPORTED = 3,
    CLI_NOT_PERMITTED = 4,
    CLI_PLUGIN = 5,
    CLI_CONFIGURATION = 6,
    CLI_UNREACHABLE = 7,
};

enum { CLI_GIVEN_MAX = 64, CLI_ARGS_MAX = 64 };

/* An option of a command; tables end with a null name. */
struct cli_option {
    const char *name;  /* without the dashes */
    const char *value; /* what the value is called in the help, null for a switch */
    const char *help;
};

struct cli {
    /* global options */
    const char *url;
    const char *key_file; /* bearer token, or null */
    const char *ca_file;  /* certificates to trust, or null: the system's */
    int json;             /* print the daemon's answer as it is */
    int quiet;            /* no progress */
    /* of this command */
    const struct cli_command *command;
    struct {
        const struct cli_option *option;
        const char *value; /* "" for a switch */
    } given[CLI_GIVEN_MAX]; /* options of this command, in the order of the words */
    size_t n_given;
    const char *args[CLI_ARGS_MAX];
    size_t n_args;
};

struct cli_command {
    const char *name; /* "adapter list" */
    const char *synopsis;
    const char *help;
    const struct cli_option *options;
    size_t min_args, max_args;
    int (*run)(struct cli *c); /* returns an exit status; has told the user what went wrong */
};

/* All commands; ends with a null name. */
extern const struct cli_command cli_commands[];

/* Value of option `name` of this command, null if it was not given; the last one counts. */
const char *cli_value(const struct cli *c, const char *name);
/* The value that was given as number `at` (from 0), for options that may be repeated; null behind
 * the last. */
const char *cli_value_at(const struct cli *c, const char *name, size_t at);

/* Fills *c from the words after the program's name. 0, or an exit status with the reason on
 * `complaints`. */
int cli_parse(struct cli *c, size_t n, char **words, FILE *complaints);
/* Usage of one command, or of all (null). */
void cli_usage(const struct cli_command *command, FILE *to);

/* Puts option `option` (if given) as a number into object under `name`; a word that is no number:
 * usage error told. */
int cli_add_number(const struct cli *c, cJSON *object, const char *option, const char *name);
/* "key=value" words become members of object: numbers and true/false as such, else text. */
int cli_add_settings(const char *word, cJSON *object);

/* Tells an error on standard error, as JSON when that was asked for; returns its exit status. */
int cli_fail(const struct cli *c, const struct claas_error *err);
int cli_complain(const char *fmt, ...)
    __attribute__((format(printf, 1, 2))); /* returns CLI_USAGE */

/* Prints with --json the whole answer and returns 1, else returns 0 and prints nothing. */
int cli_print_json(const struct cli *c, const cJSON *answer);

/* 1 if progress may be shown: standard error is a terminal, and neither --quiet nor --json. */
int cli_shows_progress(const struct cli *c);

/* Commands, by file. */
int cli_chat(struct cli *c);
int cli_complete(struct cli *c);
int cli_score(struct cli *c);
int cli_models(struct cli *c);
int cli_health(struct cli *c);
int cli_feedback(struct cli *c);
int cli_job_list(struct cli *c);
int cli_job_show(struct cli *c);
int cli_job_watch(struct cli *c);
int cli_job_cancel(struct cli *c);
int cli_audit(struct cli *c);
int cli_adapter_create(struct cli *c);
int cli_adapter_list(struct cli *c);
int cli_adapter_show(struct cli *c);
int cli_adapter_log(struct cli *c);
int cli_adapter_rollback(struct cli *c);
int cli_adapter_alias(struct cli *c);
int cli_adapter_export(struct cli *c);
int cli_adapter_delete(struct cli *c);
int cli_rollout_list(struct cli *c);
int cli_rollout_show(struct cli *c);
int cli_rollout_delete(struct cli *c);
int cli_backup(struct cli *c);
int cli_restore(struct cli *c);
int cli_key_add(struct cli *c);
int cli_key_list(struct cli *c);
int cli_key_revoke(struct cli *c);
int cli_model_fetch(struct cli *c);
int cli_model_show(struct cli *c);
int cli_plugin_list(struct cli *c);
int cli_plugin_show(struct cli *c);

#endif
