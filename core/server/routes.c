/* SPDX-License-Identifier: MIT */
/* The table of routes: what claasd answers, where it runs, who may ask. The manual page is held to it by a test. */
#include "config.h"

#include "server/app.h"

const struct http_route app_routes[] = {
    { "GET", "/", "none", HTTP_INLINE, 0, info_root, "Name, version and routes." },
    { "GET", "/health", "none", HTTP_INLINE, 0, info_health, "As /v1/health." },
    { "GET", "/v1/health", "none", HTTP_INLINE, 0, info_health, "How the daemon is." },
    { "GET", "/metrics", "loopback", HTTP_QUICK, 0, info_metrics, "Metrics in the text format of Prometheus." },
    { "POST", "/v1/chat/completions", "chat", HTTP_ANSWER, 1, chat_answer, "Answers a conversation." },
    { "POST", "/v1/completions", "chat", HTTP_ANSWER, 1, chat_complete, "Continues a text." },
    { "POST", "/v1/score", "chat", HTTP_ANSWER, 1, score_answer, "Log-probabilities of a given answer." },
    { "GET", "/v1/models", "chat", HTTP_QUICK, 0, models_list, "The base, adapters and aliases." },
    { "POST", "/v1/feedback", "feedback", HTTP_SUBMIT, 1, train_feedback, "Trains an adapter with what users said." },
    { "GET", "/v1/jobs", "feedback", HTTP_QUICK, 0, job_list, "Jobs, newest first." },
    { "GET", "/v1/jobs/{id}", "feedback", HTTP_QUICK, 0, job_show, "How a job is." },
    { "GET", "/v1/jobs/{id}/events", "feedback", HTTP_QUICK, 0, job_watch, "Its course, until the end." },
    { "DELETE", "/v1/jobs/{id}", "feedback", HTTP_QUICK, 0, job_cancel, "Cancels it, before its commit." },
    { "GET", "/v1/audit", "admin", HTTP_QUICK, 0, audit_list, "Who made which version, and what was refused." },
    { "POST", "/v1/lora/init", "feedback", HTTP_TRAIN, 1, train_init, "Makes an adapter." },
    { "GET", "/v1/lora", "chat", HTTP_QUICK, 0, lora_list, "Ids of adapters and aliases." },
    { "DELETE", "/v1/lora", "feedback", HTTP_QUICK, 0, lora_delete, "Deletes an adapter, or an alias." },
    { "GET", "/v1/lora/export", "feedback", HTTP_TRAIN, 0, lora_export, "An adapter as a zip in PEFT layout." },
    { "GET", "/v1/adapters", "chat", HTTP_QUICK, 0, adapter_show, "The newest version of an adapter." },
    { "GET", "/v1/adapters/versions", "chat", HTTP_QUICK, 0, adapter_versions, "Its log, newest first." },
    { "POST", "/v1/adapters/rollback", "feedback", HTTP_TRAIN, 1, adapter_roll, "Makes an old version the newest." },
    { "POST", "/v1/adapters/aliases", "feedback", HTTP_QUICK, 1, alias_set, "Lets a name mean an adapter." },
    { "GET", "/v1/adapters/aliases", "chat", HTTP_QUICK, 0, alias_list, "Aliases and what they mean." },
    { "DELETE", "/v1/adapters/aliases", "feedback", HTTP_QUICK, 0, alias_delete, "Removes an alias." },
    { "GET", "/v1/rollouts", "chat", HTTP_QUICK, 0, rollout_list, "Answers given, newest first." },
    { "GET", "/v1/rollouts/{id}", "chat", HTTP_QUICK, 0, rollout_show, "One answer with its ids and log-probabilities." },
    { "DELETE", "/v1/rollouts/{id}", "owner", HTTP_QUICK, 0, rollout_delete, "Forgets an answer." },
    { "DELETE", "/v1/rollouts", "owner", HTTP_QUICK, 0, rollout_delete_all, "Forgets all of a user, or of a key." },
};

const size_t app_n_routes = sizeof app_routes / sizeof *app_routes;
_Static_assert(sizeof app_routes / sizeof *app_routes <= METRICS_ROUTES, "metrics have a row for each route");
