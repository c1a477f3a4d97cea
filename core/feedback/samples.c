/* SPDX-License-Identifier: MIT */
/* From items of feedback to samples: the stored answers with their exact ids and log-probabilities,
 * and beside them what the teacher reads: the same conversation with the feedback in it. */
#include "config.h"

#include "feedback/internal.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/hindsight.h"
#include "text/visible.h"

#include <stdlib.h>
#include <string.h>

/* By the text the user saw: the adapter's newest such answer, else the base's (an adapter just made
 * speaks like it). */
static int find_by_text(struct feedback *f, const struct feedback_item *item, const char *adapter,
                        const char *owner, struct state_rollout **out, struct claas_error *err)
{
    struct claas_digest key;
    char hex[SHA256_HEX];
    int rc = visible_hash(item->response, strlen(item->response), &key, err);
    if (rc != 0) {
        return rc;
    }
    rc = state_rollout_find(f->state, &key, adapter, owner, out, err);
    if (rc == CLAAS_ERR_NOT_FOUND) {
        rc = state_rollout_find(f->state, &key, "", owner, out, err);
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        sha256_hex(&key, hex);
        rc = err_set(err, rc, "response",
                     "no answer of '%s' with this text is recorded (key %.16s…): it was never "
                     "given, or is no longer kept",
                     adapter, hex);
    }
    return rc;
}

static int find_by_id(struct feedback *f, const struct feedback_item *item, const char *adapter,
                      const char *owner, struct state_rollout **out, struct claas_error *err)
{
    struct state_rollout *r = NULL;
    int rc = state_rollout_get(f->state, item->completion_id, owner, &r, err);
    if (rc == CLAAS_ERR_NOT_FOUND) {
        return err_set(err, rc, "completion_id",
                       "no answer '%.80s' is recorded: it was never given, or is no longer kept",
                       item->completion_id);
    }
    if (rc == 0 && r->adapter[0] != '\0' && strcmp(r->adapter, adapter) != 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, "completion_id",
                     "answer '%s' was given by '%s', not by '%s'", r->id, r->adapter, adapter);
        state_rollout_free(r);
    }
    if (rc == 0) {
        *out = r;
    }
    return rc;
}

static int rollout_check(const struct state_rollout *r, struct claas_error *err)
{
    if (r->n_response == 0) {
        return err_set(err, CLAAS_ERR_INVALID, "response",
                       "answer '%s' is empty: there is nothing to train on", r->id);
    }
    if (r->logprobs == NULL) {
        return err_set(
            err, CLAAS_ERR_INVALID, "response",
            "answer '%s' has no log-probabilities: the server that gave it does not tell them",
            r->id);
    }
    if (r->messages_json == NULL) {
        return err_set(
            err, CLAAS_ERR_INVALID, "response",
            "answer '%s' completed a plain text: there is no conversation to put the feedback into",
            r->id);
    }
    return 0;
}

static int teacher_render(struct feedback *f, const struct state_rollout *r, const char *feedback,
                          struct host_ids *out, struct claas_error *err)
{
    cJSON *messages = NULL;
    cJSON *changed = NULL;
    char *text = NULL;
    int rc = json_parse(r->messages_json, strlen(r->messages_json), "the recorded messages",
                        &messages, err);
    if (rc == 0) {
        rc = hindsight_messages(messages, feedback, &changed, err);
    }
    if (rc == 0) {
        cJSON *chat = cJSON_CreateObject();
        if (chat == NULL || !cJSON_AddItemToObject(chat, "messages", changed)) {
            rc = err_oom(err, "what the teacher reads");
        } else {
            changed = NULL; /* the chat has it */
            text = json_print(chat);
            rc = text == NULL ? err_oom(err, "what the teacher reads") : 0;
        }
        cJSON_Delete(chat);
    }
    if (rc == 0) {
        rc = host_text_render(f->text, text, CLAAS_GENERATION_PROMPT, out, err);
    }
    free(text);
    cJSON_Delete(changed);
    cJSON_Delete(messages);
    return rc;
}

static int room_check(struct feedback *f, const struct state_rollout *r, uint32_t n_response,
                      size_t n_teacher, struct claas_error *err)
{
    struct claas_model model = { .size = sizeof model };
    /* 0: only the engine knows */
    uint32_t context = host_model(f->engine, &model, NULL) == 0 ? model.context : 0;
    if (n_teacher == 0 || n_teacher > INT32_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "feedback",
                       "the teacher's prompt for answer '%s' has %zu tokens", r->id, n_teacher);
    }
    if (context > 0 && n_teacher + n_response > context) {
        return err_set(err, CLAAS_ERR_INVALID, "feedback",
                       "the conversation with the feedback (%zu tokens) and answer '%s' (%u) do "
                       "not fit into the model's context of %u",
                       n_teacher, r->id, n_response, context);
    }
    if (context > 0 && (uint64_t)r->n_prompt + n_response > context) {
        return err_set(
            err, CLAAS_ERR_INVALID, "response",
            "the prompt (%u tokens) and answer '%s' (%u) do not fit into the model's context of %u",
            r->n_prompt, r->id, n_response, context);
    }
    return 0;
}

static int sample_make(struct feedback *f, const struct feedback_item *item, const char *adapter,
                       const char *owner, const struct settings *settings, struct batch *b,
                       struct claas_error *err)
{
    size_t at = b->n;
    int rc = item->completion_id != NULL && item->completion_id[0] != '\0'
                 ? find_by_id(f, item, adapter, owner, &b->rollouts[at], err)
                 : find_by_text(f, item, adapter, owner, &b->rollouts[at], err);
    if (rc != 0) {
        return rc;
    }
    b->n++; /* from here on batch_clear frees it */
    const struct state_rollout *r = b->rollouts[at];
    rc = rollout_check(r, err);
    if (rc != 0) {
        return rc;
    }
    uint32_t n = settings->train_end ? r->n_response : r->n_response - r->end_tokens;
    if (n == 0) {
        return err_set(
            err, CLAAS_ERR_INVALID, "response",
            "answer '%s' is empty but for the end of the turn, which 'train_end_token' leaves out",
            r->id);
    }
    rc = teacher_render(f, r, item->feedback, &b->teachers[at], err);
    if (rc == 0) {
        rc = room_check(f, r, n, b->teachers[at].n, err);
    }
    if (rc != 0) {
        return rc;
    }
    b->samples[at] = (struct claas_sample){
        .size = sizeof b->samples[at],
        .objective = "sdpo",
        .prompt = r->prompt_ids,
        .response = r->response_ids,
        .teacher = b->teachers[at].ids,
        .logprobs = r->logprobs,
        .n_prompt = r->n_prompt,
        .n_response = n,
        .n_teacher = (uint32_t)b->teachers[at].n,
        .weight = 1,
    };
    b->list[at] = &b->samples[at];
    b->ids[at] = r->id;
    return 0;
}

int batch_make(struct feedback *f, const struct feedback_request *r, const char *adapter,
               const struct settings *settings, struct batch *out, struct claas_error *err)
{
    struct batch b = {
        .rollouts = mem_array(r->n_items, sizeof *b.rollouts),
        .teachers = mem_array(r->n_items, sizeof *b.teachers),
        .samples = mem_array(r->n_items, sizeof *b.samples),
        .list = mem_array(r->n_items, sizeof *b.list),
        .ids = mem_array(r->n_items, sizeof *b.ids),
    };
    int rc = 0;
    if (b.rollouts == NULL || b.teachers == NULL || b.samples == NULL || b.list == NULL ||
        b.ids == NULL) {
        rc = err_oom(err, "a batch");
    }
    for (size_t i = 0; rc == 0 && i < r->n_items; i++) {
        const char *owner = r->anybodys ? NULL : r->owner == NULL ? "" : r->owner;
        rc = sample_make(f, &r->items[i], adapter, owner, settings, &b, err);
    }
    if (rc != 0) {
        batch_clear(&b);
        return rc;
    }
    *out = b;
    return 0;
}

void batch_age(struct batch *b, uint64_t n)
{
    for (size_t i = 0; i < b->n; i++) {
        uint64_t version = b->rollouts[i]->version;
        uint64_t age = n > version ? n - version : 0;
        b->samples[i].age = age > UINT32_MAX ? UINT32_MAX : (uint32_t)age;
    }
}

static cJSON *teacher_text(struct feedback *f, const struct claas_sample *s)
{
    struct buf text = BUF_INIT;
    int rc = host_text_decode(f->text, s->teacher, s->n_teacher, CLAAS_SPECIAL, &text, NULL);
    if (rc == 0) {
        rc = host_text_decode(f->text, s->response, s->n_response, CLAAS_SPECIAL, &text, NULL);
    }
    cJSON *v = rc == 0 && !text.failed ? cJSON_CreateString(buf_str(&text)) : cJSON_CreateNull();
    buf_clear(&text);
    return v;
}

cJSON *batch_teacher_texts(struct feedback *f, const struct batch *b)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; list != NULL && i < b->n; i++) {
        cJSON *text = teacher_text(f, &b->samples[i]);
        if (text == NULL || !cJSON_AddItemToArray(list, text)) {
            cJSON_Delete(text);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

void batch_clear(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++) {
        state_rollout_free(b->rollouts[i]);
        host_ids_clear(&b->teachers[i]);
    }
    free(b->rollouts);
    free(b->teachers);
    free(b->samples);
    free(b->list);
    free(b->ids);
    *b = (struct batch){ .n = 0 };
}
