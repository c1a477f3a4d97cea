/* SPDX-License-Identifier: MIT */
/* chat and complete: one answer, or a conversation on a terminal; tokens are shown as they come. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "base/file.h"
#include "cli/client.h"
#include "cli/print.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHAT_INPUT_MAX = 1 << 20 };

/* An answer that is coming in. */
struct chat_answer {
    struct buf text;
    char id[80];
    const char *delta; /* "content" of a chat's delta, "text" of a completion's choice */
};

static void chat_take(struct chat_answer *a, const char *text)
{
    buf_adds(&a->text, text);
    if (!isatty(STDOUT_FILENO)) {
        (void)fputs(text, stdout);
    } else {
        char *tame = strdup(text);
        if (tame) {
            print_tame(tame, "\n\t");
            (void)fputs(tame, stdout);
        }
        free(tame);
    }
    (void)fflush(stdout);
}

static int chat_event(void *ctx, const cJSON *event)
{
    struct chat_answer *a = ctx;
    struct claas_error ignored = ERR_INIT;
    const cJSON *choice = cJSON_GetArrayItem(json_get(event, "choices"), 0);
    const cJSON *delta = json_get(choice, "delta");
    const char *text = NULL;
    const char *id = NULL;
    (void)json_get_text(delta ? delta : choice, a->delta, &text,
                        &ignored); /* absent in some events */
    (void)json_get_text(event, "id", &id, &ignored);
    if (id) {
        (void)snprintf(a->id, sizeof a->id, "%s", id);
    }
    if (text) {
        chat_take(a, text);
    }
    return 0;
}

static cJSON *chat_sampling(const struct cli *c, int *out_status)
{
    cJSON *body = cJSON_CreateObject();
    const char *model = cli_value(c, "model");
    int status = body ? 0 : CLI_FAILED;
    if (status == 0 && model && !cJSON_AddStringToObject(body, "model", model)) {
        status = CLI_FAILED;
    }
    static const char *const names[][2] = { { "max-tokens", "max_tokens" },
                                            { "temperature", "temperature" },
                                            { "top-p", "top_p" },
                                            { "top-k", "top_k" },
                                            { "seed", "seed" } };
    for (size_t i = 0; status == 0 && i < sizeof names / sizeof names[0]; i++) {
        status = cli_add_number(c, body, names[i][0], names[i][1]);
    }
    *out_status = status;
    return body;
}

/* Not streamed: the whole answer, printed or as JSON. */
static int chat_whole(struct cli *c, const char *path, const cJSON *body, struct chat_answer *a)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    if (client_call(c, "POST", path, body, &answer, &err)) {
        return cli_fail(c, &err);
    }
    if (!cli_print_json(c, answer)) {
        const cJSON *choice = cJSON_GetArrayItem(json_get(answer, "choices"), 0);
        const cJSON *message = json_get(choice, "message");
        const char *text = NULL;
        const char *id = NULL;
        (void)json_get_text(message ? message : choice, a->delta, &text, &err);
        (void)json_get_text(answer, "id", &id, &err);
        (void)snprintf(a->id, sizeof a->id, "%s", id ? id : "");
        chat_take(a, text ? text : "");
    }
    cJSON_Delete(answer);
    return 0;
}

static int chat_send(struct cli *c, const char *path, cJSON *body, struct chat_answer *a)
{
    struct claas_error err = ERR_INIT;
    int status = 0;
    if (c->json || cli_value(c, "no-stream")) {
        status = chat_whole(c, path, body, a);
    } else if (!cJSON_AddBoolToObject(body, "stream", 1)) {
        status = CLI_FAILED;
    } else if (client_stream(c, path, body, chat_event, a, &err)) {
        status = cli_fail(c, &err);
    }
    if ((a->text.len > 0 || status == 0) && !c->json) { /* also behind an answer that broke off */
        (void)putchar('\n');
        (void)fflush(stdout);
    }
    return status;
}

/* One request with the conversation so far; the answer is added to it. */
static int chat_turn(struct cli *c, cJSON *messages, struct chat_answer *a)
{
    int status;
    cJSON *body = chat_sampling(c, &status);
    if (status == 0 && !cJSON_AddItemReferenceToObject(body, "messages", messages)) {
        status = CLI_FAILED;
    }
    if (status == 0) {
        status = chat_send(c, "/v1/chat/completions", body, a);
    }
    cJSON_Delete(body);
    return status ? status : client_add_message(messages, "assistant", buf_str(&a->text));
}

static int chat_feedback(struct cli *c, const char *id, const char *text)
{
    struct claas_error err = ERR_INIT;
    const char *model = cli_value(c, "model");
    if (!id[0] || !model) {
        (void)cli_complain("there is no answer of an adapter to give feedback on; use --model ID");
        return 0;
    }
    cJSON *body = cJSON_CreateObject();
    cJSON *item = cJSON_CreateObject();
    cJSON *answer = NULL;
    cJSON_AddItemToArray(cJSON_AddArrayToObject(body, "requests"), item);
    cJSON_AddStringToObject(item, "lora_id", model);
    cJSON_AddStringToObject(item, "completion_id", id);
    if (!cJSON_AddStringToObject(item, "feedback", text)) {
        cJSON_Delete(body);
        return CLI_FAILED;
    }
    if (client_call(c, "POST", "/v1/feedback", body, &answer, &err)) {
        (void)cli_fail(c, &err); /* the conversation goes on */
    } else {
        (void)fputs("(learnt)\n", stderr);
    }
    cJSON_Delete(answer);
    cJSON_Delete(body);
    return 0;
}

/* What a line that begins with a slash asks for; 1 ends the conversation. */
static int chat_slash(struct cli *c, const char *line, const char *last_id, cJSON *messages)
{
    if (strncmp(line, "/feedback ", 10) == 0) {
        return chat_feedback(c, last_id, line + 10) ? 1 : 0;
    }
    if (strcmp(line, "/new") == 0) {
        while (cJSON_GetArraySize(messages) > 0) {
            cJSON_DeleteItemFromArray(messages, 0);
        }
        return 0;
    }
    if (strcmp(line, "/quit") == 0) {
        return 1;
    }
    (void)fputs("/feedback TEXT   say what was wrong with the last answer\n"
                "/new             start a new conversation\n/quit            leave\n", stderr);
    return 0;
}

static int chat_converse(struct cli *c, cJSON *messages)
{
    char *line = NULL;
    size_t cap = 0;
    char last_id[80] = "";
    int status = 0;
    for (;;) {
        (void)fputs("> ", stderr);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) {
            break;
        }
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] == '/') {
            if (chat_slash(c, line, last_id, messages)) {
                break;
            }
            continue;
        }
        if (!line[0]) {
            continue;
        }
        struct chat_answer a = { .delta = "content" };
        status = client_add_message(messages, "user", line);
        if (status == 0) {
            status = chat_turn(c, messages, &a);
            if (status) { /* told already; the conversation goes on as if nothing had been asked */
                cJSON_DeleteItemFromArray(messages, cJSON_GetArraySize(messages) - 1);
            }
        }
        (void)snprintf(last_id, sizeof last_id, "%s", a.id);
        buf_clear(&a.text);
        if (status == CLI_USAGE || status == CLI_UNREACHABLE) {
            break;
        }
    }
    free(line);
    return status;
}

/* The text of a single question: the argument, or all of standard input. */
static int chat_question(const struct cli *c, struct buf *out)
{
    if (c->n_args > 0) {
        buf_adds(out, c->args[0]);
        return 0;
    }
    struct claas_error err = ERR_INIT;
    if (file_read("/dev/stdin", CHAT_INPUT_MAX, out, &err)) {
        return cli_fail(c, &err);
    }
    while (out->len > 0 && out->data[out->len - 1] == '\n') {
        buf_cut(out, out->len - 1);
    }
    return out->len > 0 ? 0 : cli_complain("nothing to ask: standard input is empty");
}

int cli_chat(struct cli *c)
{
    const char *system = cli_value(c, "system");
    cJSON *messages = cJSON_CreateArray();
    int status = messages ? 0 : CLI_FAILED;
    if (status == 0 && system) {
        status = client_add_message(messages, "system", system);
    }
    if (status == 0 && c->n_args == 0 && isatty(STDIN_FILENO)) {
        status = chat_converse(c, messages);
    } else if (status == 0) {
        struct buf question = BUF_INIT;
        struct chat_answer a = { .delta = "content" };
        status = chat_question(c, &question);
        if (status == 0) {
            status = client_add_message(messages, "user", buf_str(&question));
        }
        if (status == 0) {
            status = chat_turn(c, messages, &a);
        }
        buf_clear(&question);
        buf_clear(&a.text);
    }
    cJSON_Delete(messages);
    return status;
}

int cli_complete(struct cli *c)
{
    int status;
    cJSON *body = chat_sampling(c, &status);
    struct chat_answer a = { .delta = "text" };
    if (status == 0 && !cJSON_AddStringToObject(body, "prompt", c->args[0])) {
        status = CLI_FAILED;
    }
    if (status == 0) {
        status = chat_send(c, "/v1/completions", body, &a);
    }
    buf_clear(&a.text);
    cJSON_Delete(body);
    return status;
}
