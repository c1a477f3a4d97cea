/* SPDX-License-Identifier: MIT */
/* For tests of the feedback room: the rooms it works with, open over the toy's house, and the short
 * ways to ask and to give feedback. */
#ifndef UNIT_FEEDBACK_TESTING_H
#define UNIT_FEEDBACK_TESTING_H

#include "toy.h"

#include "base/json.h"
#include "feedback/feedback.h"

#include <stdio.h>
#include <string.h>

static struct toy_house house;
static struct adapters *a;
static struct state *state;
static struct serving *serving;
static struct feedback *f;
static struct claas_error err;
static struct feedback_result result;

static inline void open_rooms(struct feedback_options options)
{
    char dir[128];
    (void)snprintf(dir, sizeof dir, "%s/state", house.root);
    ck_ok(state_open(dir, NULL, &state, &err), err);
    const struct serving_options so = {
        .inference = house.instance, .adapters = a, .state = state, .retry_ms = 20
    };
    ck_ok(serving_open(&so, &serving, &err), err);
    options.engine = options.engine == NULL ? house.instance : options.engine;
    options.adapters = a;
    options.state = state;
    options.serving = serving;
    options.engine_name = "toy";
    ck_ok(feedback_open(&options, &f, &err), err);
}

static inline void close_rooms(void)
{
    feedback_close(f);
    serving_close(serving);
    state_close(state);
}

static inline void setup(void)
{
    err = ERR_INIT;
    toy_reset();
    toy_house_open(&house);
    a = house.adapters;
    open_rooms((struct feedback_options){ .lock_timeout_ms = 10000 });
}

static inline void teardown(void)
{
    close_rooms();
    toy_house_close(&house);
    ck_assert_int_eq(toy.not_loaded, 0);
}

static inline cJSON *parsed(const char *text)
{
    cJSON *v = NULL;
    ck_ok(json_parse(text, strlen(text), "test", &v, &err), err);
    return v;
}

static inline void create(const char *id)
{
    struct feedback_created made;
    const struct feedback_create r = { .lora_id = id };
    ck_ok(feedback_create(f, &r, &made, &err), err);
    ck_assert(made.serves);
}

#define TALK \
    "[{\"role\":\"user\",\"content\":\"first\"},{\"role\":\"assistant\",\"content\":\"yes\"}," \
    "{\"role\":\"user\",\"content\":\"who are you?\"}]"

/* Asks the model; the completion id is in id, the text is returned (until the next call). */
static inline const char *chat_as(const char *owner, const char *model, char id[STATE_ID_CAP])
{
    static char text[64];
    struct serving_answer out;
    cJSON *list = parsed(TALK);
    struct serving_request r = { .model = model, .owner = owner, .messages = list };
    serving_params_default(&r.params);
    ck_ok(serving_chat(serving, &r, &out, &err), err);
    (void)snprintf(text, sizeof text, "%s", out.text);
    memcpy(id, out.receipt.id, STATE_ID_CAP);
    serving_answer_clear(&out);
    cJSON_Delete(list);
    return text;
}

static inline const char *chat(const char *model, char id[STATE_ID_CAP])
{
    return chat_as("", model, id);
}

static inline int run_items(const struct feedback_item *items, size_t n)
{
    const struct feedback_request r = { .items = items, .n_items = n };
    err = ERR_INIT;
    return feedback_run(f, &r, &result, &err);
}

static inline int run_one(const char *lora_id, const char *completion_id, const char *training)
{
    cJSON *t = training == NULL ? NULL : parsed(training);
    const struct feedback_item item = {
        .lora_id = lora_id, .completion_id = completion_id, .feedback = " be Kuro \n", .training = t
    };
    int rc = run_items(&item, 1);
    cJSON_Delete(t);
    return rc;
}

static inline uint64_t head_of(const char *id)
{
    struct adapter_entry *e = NULL;
    ck_ok(adapter_head(a, id, NULL, &e, &err), err);
    uint64_t n = e->n;
    adapter_entry_unref(e);
    return n;
}

/* The one record of an adapter: the request failed in this phase with what err says. */
static inline void ck_record_failed(const char *adapter, const char *phase)
{
    struct state_feedbacks page;
    struct claas_error why = ERR_INIT;
    ck_ok(state_feedback_list(state, adapter, "", 0, 10, &page, &why), why);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_str_eq(page.at[0]->status, "error");
    ck_assert_str_eq(page.at[0]->phase, phase);
    ck_assert_int_eq(page.at[0]->error_code, err.code);
    ck_assert_str_eq(page.at[0]->error, err.message);
    ck_assert_uint_eq(page.at[0]->version_to, 0);
    ck_assert_msg(strncmp(err.message, phase, strlen(phase)) == 0 &&
                      err.message[strlen(phase)] == ':',
                  "'%s' does not name the phase '%s'", err.message, phase);
    state_feedbacks_clear(&page);
}

static inline uint64_t records(void)
{
    struct state_counts counts;
    struct claas_error why = ERR_INIT;
    ck_ok(state_count(state, &counts, &why), why);
    return counts.feedback;
}

static inline double number(const cJSON *o, const char *name)
{
    const cJSON *v = json_get(o, name);
    ck_assert_msg(cJSON_IsNumber(v), "'%s' is no number", name);
    return v->valuedouble;
}

#endif
