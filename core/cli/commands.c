/* SPDX-License-Identifier: MIT */
/* The table of commands. */
#include "config.h"

#include "cli/cli.h"

#include <stddef.h>

#define SAMPLING \
    { "model", "NAME", "adapter or model that answers" }, \
    { "max-tokens", "N", "length limit of the answer" }, \
    { "temperature", "T", "0 is greedy" }, \
    { "top-p", "P", "nucleus" }, \
    { "top-k", "K", "the K likeliest only" }, \
    { "seed", "N", "makes sampling repeatable" }, \
    { "no-stream", NULL, "print the answer when it is complete" }

static const struct cli_option chat_options[] = {
    SAMPLING, { "system", "TEXT", "system message" }, { NULL, NULL, NULL } };
static const struct cli_option complete_options[] = { SAMPLING, { NULL, NULL, NULL } };
static const struct cli_option score_options[] = {
    { "model", "NAME", "adapter or model that scores" },
    { "prompt", "TEXT", "user message" },
    { "system", "TEXT", "system message" },
    { "completion", "TEXT", "answer to be scored" },
    { NULL, NULL, NULL } };
static const struct cli_option feedback_options[] = {
    { "model", "ID", "adapter; its newest answer is meant unless --id names one" },
    { "id", "COMPLETION", "the answer that the feedback is about" },
    { "learning-rate", "R", "of this step" },
    { "steps", "N", "updates with this feedback" },
    { "set", "KEY=VALUE", "another training setting; may be repeated" },
    { "async", NULL, "do not wait: print the id of the job" },
    { NULL, NULL, NULL } };
static const struct cli_option create_options[] = {
    { "base", "MODEL", "base model, by default the daemon's" },
    { "rank", "R", "of the low-rank matrices" },
    { "alpha", "A", "scaling is alpha / rank" },
    { "modules", "LIST", "q_proj,k_proj,… (all seven)" },
    { NULL, NULL, NULL } };
static const struct cli_option page_options[] = { { "limit", "N", "at most so many" },
                                                  { NULL, NULL, NULL } };
static const struct cli_option alias_options[] = { { "delete", NULL, "remove the alias" },
                                                   { NULL, NULL, NULL } };
static const struct cli_option remove_options[] = {
    { "if-exists", NULL, "what is not there is no failure" }, { NULL, NULL, NULL } };
static const struct cli_option export_options[] = {
    { "output", "FILE", "by default NAME.zip" }, { NULL, NULL, NULL } };
static const struct cli_option rollout_options[] = { { "model", "ID", "of this adapter only" },
                                                     { "limit", "N", "at most so many" },
                                                     { NULL, NULL, NULL } };
static const struct cli_option forget_options[] = { { "user", "NAME", "all answers to this end user" },
                                                    { "owner", "KEY", "all that this key has" },
                                                    { "yes", NULL, "ask nothing" },
                                                    { NULL, NULL, NULL } };
static const struct cli_option fetch_options[] = {
    { "sha256", "HEX", "digest the file must have" },
    { "output", "FILE", "by default the last part of the address" },
    { NULL, NULL, NULL } };
static const struct cli_option show_options[] = {
    { "plugin", "NAME", "the engine that reads the file (cpu)" }, { NULL, NULL, NULL } };
#define STATE_DIR { "state-dir", "DIR", "claasd's state directory (/var/lib/claas)" }
static const struct cli_option state_options[] = { STATE_DIR, { NULL, NULL, NULL } };
static const struct cli_option backup_options[] = {
    { "force", NULL, "replace a file that is there" }, STATE_DIR, { NULL, NULL, NULL } };
static const struct cli_option key_options[] = {
    { "rights", "LIST", "of chat, feedback, admin (chat,feedback)" },
    { "prefix", "ID", "the key may make and train adapters below it only" },
    { "expires", "DAYS", "after so many days" },
    { "requests-a-minute", "N", "quota" },
    { "steps-an-hour", "N", "quota of feedback requests" },
    { "bytes-a-day", "N", "quota of bodies, received and sent" },
    STATE_DIR, { NULL, NULL, NULL } };
static const struct cli_option no_options[] = { { NULL, NULL, NULL } };

const struct cli_command cli_commands[] = {
    { "chat", "[TEXT]",
      "ask the model; without TEXT a conversation on a terminal, or standard input", chat_options,
      0, 1, cli_chat },
    { "complete", "TEXT", "continue a text", complete_options, 1, 1, cli_complete },
    { "score", "", "log-probability of an answer", score_options, 0, 0, cli_score },
    { "models", "", "what can be asked", no_options, 0, 0, cli_models },
    { "feedback", "TEXT", "say what was wrong with an answer: trains one step", feedback_options, 1,
      1, cli_feedback },
    { "job list", "", "feedback that was accepted, newest first", page_options, 0, 0, cli_job_list },
    { "job show", "ID", "how a job is", no_options, 1, 1, cli_job_show },
    { "job watch", "ID", "wait for its end", no_options, 1, 1, cli_job_watch },
    { "job cancel", "ID", "call it off, before its commit", no_options, 1, 1, cli_job_cancel },
    { "audit", "[ID]", "whose feedback made versions, and what was refused", page_options, 0, 1, cli_audit },
    { "adapter create", "ID", "make a new adapter", create_options, 1, 1, cli_adapter_create },
    { "adapter list", "[PREFIX]", "adapters and aliases", page_options, 0, 1, cli_adapter_list },
    { "adapter show", "ID", "one adapter's head", no_options, 1, 1, cli_adapter_show },
    { "adapter log", "ID", "its versions, newest first", page_options, 1, 1, cli_adapter_log },
    { "adapter rollback", "ID VERSION", "bring an older version back, as a new one", no_options, 2,
      2, cli_adapter_rollback },
    { "adapter alias", "[ALIAS [ID]]", "set, remove or list aliases", alias_options, 0, 2,
      cli_adapter_alias },
    { "adapter export", "ID", "download as a zip in PEFT layout", export_options, 1, 1,
      cli_adapter_export },
    { "adapter delete", "ID", "remove an adapter or an alias", remove_options, 1, 1,
      cli_adapter_delete },
    { "rollout list", "", "recorded answers, newest first", rollout_options, 0, 0,
      cli_rollout_list },
    { "rollout show", "ID", "one recorded answer", no_options, 1, 1, cli_rollout_show },
    { "rollout delete", "[ID]", "forget one, or all of a user or key", forget_options, 0, 1, cli_rollout_delete },
    { "backup", "FILE", "copy claasd's records, also while it runs", backup_options, 1, 1, cli_backup },
    { "restore", "FILE", "bring a backup back, while claasd is stopped", state_options, 1, 1, cli_restore },
    { "key add", "NAME", "make an API key and print it, this once", key_options, 1, 1, cli_key_add },
    { "key list", "", "API keys", state_options, 0, 0, cli_key_list },
    { "key revoke", "ID", "let a key count no more", state_options, 1, 1, cli_key_revoke },
    { "model fetch", "URL", "download a model file and check it", fetch_options, 1, 1,
      cli_model_fetch },
    { "model show", "PATH", "what an engine says of a model file", show_options, 1, 1,
      cli_model_show },
    { "plugin list", "", "plugins in the plugin directory", no_options, 0, 0, cli_plugin_list },
    { "plugin show", "NAME", "one plugin: kinds, version, options", no_options, 1, 1,
      cli_plugin_show },
    { "health", "", "how the daemon is", no_options, 0, 0, cli_health },
    { NULL, NULL, NULL, NULL, 0, 0, NULL },
};
