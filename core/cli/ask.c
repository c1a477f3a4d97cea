/* SPDX-License-Identifier: MIT */
/* Small questions to the daemon: score, models, health, rollouts; and feedback. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "cli/client.h"
#include "cli/print.h"

#include <stdlib.h>
#include <string.h>

/* One call, its answer printed: whole with --json, else by `show` (null: as lines). */
static int ask_and_show(struct cli *c, const char *method, const char *path, const cJSON *body,
                        void (*show)(const cJSON *answer))
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    if (!path) {
        (void)err_oom(&err, "preparing a request");
        return cli_fail(c, &err);
    }
    if (client_call(c, method, path, body, &answer, &err)) {
        return cli_fail(c, &err);
    }
    if (!cli_print_json(c, answer)) {
        if (show) {
            show(answer);
        } else {
            print_object(answer, 0, stdout);
        }
    }
    cJSON_Delete(answer);
    return 0;
}

static void show_models(const cJSON *answer)
{
    static const char *const columns[] = { "id", "owned_by", NULL };
    print_table(json_get(answer, "data"), columns, stdout);
}

int cli_models(struct cli *c)
{
    return ask_and_show(c, "GET", "/v1/models", NULL, show_models);
}

int cli_health(struct cli *c)
{
    return ask_and_show(c, "GET", "/v1/health", NULL, NULL);
}

static void show_score(const cJSON *answer)
{
    struct claas_error ignored = ERR_INIT;
    double sum = 0;
    int64_t n = 0;
    (void)json_get_real(answer, "logprob_sum", -1e300, 1e300, &sum, &ignored);
    (void)json_get_int(answer, "completion_tokens", 0, INT32_MAX, &n, &ignored);
    (void)printf("logprob_sum: %.6f\ncompletion_tokens: %lld\n", sum, (long long)n);
}

int cli_score(struct cli *c)
{
    const char *model = cli_value(c, "model");
    const char *prompt = cli_value(c, "prompt");
    const char *system = cli_value(c, "system");
    const char *completion = cli_value(c, "completion");
    if (!prompt || !completion) {
        return cli_complain("score needs --prompt and --completion");
    }
    cJSON *body = cJSON_CreateObject();
    cJSON *messages = cJSON_AddArrayToObject(body, "messages");
    int status = CLI_FAILED;
    if (messages && (!system || client_add_message(messages, "system", system) == 0) &&
        client_add_message(messages, "user", prompt) == 0 &&
        cJSON_AddStringToObject(body, "completion", completion) &&
        cJSON_AddStringToObject(body, "model", model ? model : "")) {
        status = ask_and_show(c, "POST", "/v1/score", body, show_score);
    }
    cJSON_Delete(body);
    return status;
}

static void show_rollouts(const cJSON *answer)
{
    static const char *const columns[] = { "id",      "created",       "adapter",
                                           "version", "finish_reason", NULL };
    print_table(json_get(answer, "rollouts"), columns, stdout);
}

int cli_rollout_list(struct cli *c)
{
    const char *const pairs[] = { "adapter", cli_value(c, "model"), "limit", cli_value(c, "limit"),
                                  NULL };
    char *path = client_path("/v1/rollouts", pairs);
    int status = ask_and_show(c, "GET", path, NULL, show_rollouts);
    free(path);
    return status;
}

int cli_rollout_show(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    if (c->args[0][strspn(c->args[0],
                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")]) {
        return cli_complain("'%s' is no completion id", c->args[0]);
    }
    struct buf path = BUF_INIT;
    buf_addf(&path, "/v1/rollouts/%s", c->args[0]);
    int status = path.failed ? (err_oom(&err, "preparing a request"), cli_fail(c, &err))
                             : ask_and_show(c, "GET", path.data, NULL, NULL);
    buf_clear(&path);
    return status;
}

/* The id of the adapter's newest recorded answer, on the heap. */
static int feedback_newest(struct cli *c, const char *model, char **out)
{
    struct claas_error err = ERR_INIT;
    const char *const pairs[] = { "adapter", model, "limit", "1", NULL };
    char *path = client_path("/v1/rollouts", pairs);
    cJSON *answer = NULL;
    if (!path || client_call(c, "GET", path, NULL, &answer, &err)) {
        free(path);
        return cli_fail(c, &err);
    }
    free(path);
    const char *id = NULL;
    (void)json_get_text(cJSON_GetArrayItem(json_get(answer, "rollouts"), 0), "id", &id, &err);
    *out = id ? strdup(id) : NULL;
    cJSON_Delete(answer);
    if (!*out) {
        (void)cli_complain("'%s' has no recorded answer yet; ask it first, or name one with --id",
                           model);
    }
    return *out ? 0 : CLI_FAILED;
}

static int feedback_training(const struct cli *c, cJSON *item)
{
    cJSON *training = cJSON_CreateObject();
    int status = training ? cli_add_number(c, training, "learning-rate", "learning_rate")
                          : CLI_FAILED;
    if (status == 0) {
        status = cli_add_number(c, training, "steps", "steps_per_batch");
    }
    const char *word;
    for (size_t i = 0; status == 0 && (word = cli_value_at(c, "set", i)); i++) {
        status = cli_add_settings(word, training);
    }
    if (status == 0 && training->child) {
        return cJSON_AddItemToObject(item, "training", training) ? 0 : CLI_FAILED;
    }
    cJSON_Delete(training);
    return status;
}

/* What was not as it was meant must not pass unseen. */
static void show_warnings(const cJSON *answer)
{
    const cJSON *one;
    cJSON_ArrayForEach(one, json_get(answer, "warnings"))
    {
        if (cJSON_IsString(one)) {
            (void)fprintf(stderr, "claas: warning: %s\n", one->valuestring);
        }
    }
}

static void show_feedback(const cJSON *answer)
{
    show_warnings(answer);
    const cJSON *metadata = json_get(json_get(answer, "distill_result"), "metadata");
    const cJSON *loss = json_get(metadata, "total_loss");
    const cJSON *total = json_get(json_get(answer, "timing_ms"), "total");
    const cJSON *id = json_get(answer, "lora_id");
    const cJSON *version = json_get(answer, "version");
    (void)printf("%s", cJSON_IsString(id) ? id->valuestring : "adapter");
    if (cJSON_IsNumber(version)) {
        (void)printf("@%.0f", version->valuedouble);
    }
    (void)printf(" learnt: loss %.4f, %.0f ms\n", loss ? loss->valuedouble : 0,
                 total ? total->valuedouble : 0);
}

/* The job's id is all that a script needs to go on. */
static int feedback_submit(struct cli *c, const cJSON *body)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    if (client_call_with(c, "POST", "/v1/feedback", "Prefer: respond-async", body, &answer, &err)) {
        return cli_fail(c, &err);
    }
    const char *id = cJSON_GetStringValue(json_get(answer, "id"));
    int rc = id ? 0 : err_set(&err, CLAAS_ERR_INTERNAL, "", "the daemon's answer names no job");
    if (rc == 0 && !cli_print_json(c, answer)) {
        (void)printf("%s\n", id);
    }
    cJSON_Delete(answer);
    return rc ? cli_fail(c, &err) : 0;
}

int cli_feedback(struct cli *c)
{
    const char *model = cli_value(c, "model");
    char *found = NULL;
    if (!model) {
        return cli_complain("feedback needs --model ID: the adapter that is to learn");
    }
    if (!cli_value(c, "id")) {
        int status = feedback_newest(c, model, &found);
        if (status) {
            return status;
        }
    }
    cJSON *body = cJSON_CreateObject();
    cJSON *item = cJSON_CreateObject();
    int status = CLI_FAILED;
    if (cJSON_AddItemToArray(cJSON_AddArrayToObject(body, "requests"), item) &&
        cJSON_AddStringToObject(item, "lora_id", model) &&
        cJSON_AddStringToObject(item, "completion_id", found ? found : cli_value(c, "id")) &&
        cJSON_AddStringToObject(item, "feedback", c->args[0])) {
        status = feedback_training(c, item);
    }
    if (status == 0 && cli_value(c, "async")) {
        status = feedback_submit(c, body);
    } else if (status == 0) {
        if (cli_shows_progress(c)) {
            (void)fputs("training …\n", stderr);
        }
        status = ask_and_show(c, "POST", "/v1/feedback", body, show_feedback);
    }
    cJSON_Delete(body);
    free(found);
    return status;
}
