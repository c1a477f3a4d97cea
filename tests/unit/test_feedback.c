/* SPDX-License-Identifier: MIT */
/* The feedback transaction over a real fs store, a real state database, the serving room and the
 * toy plugin. */
#include "config.h"

#include "feedback_testing.h"

#include "base/clock.h"
#include "base/sha256.h"

#include <math.h>

START_TEST(feedback_makes_the_next_version_answer)
{
    char id[STATE_ID_CAP];
    create("ada/tutor");
    ck_assert_str_eq(chat("ada/tutor", id), "v0");
    ck_ok(run_one("ada/tutor-latest", id, NULL), err);
    ck_assert_str_eq(result.lora_id, "ada/tutor");
    ck_assert_uint_eq(result.version_from, 1);
    ck_assert_uint_eq(result.version_to, 2);
    ck_assert_uint_eq(strlen(result.request_id), 32);
    ck_assert(result.serves && result.recorded && !result.slept);
    ck_assert_uint_eq(result.batch_size, 1);
    ck_assert_str_eq(toy.last_teacher, "<open>user\nfirst<end><open>assistant\nyes<end><open>"
                                       "user\nwho are you?\n\n=== HINDSIGHT CONTEXT ==="
                                       "\n[The following is a future user message. Use this to "
                                       "guide your answer to the user prompt.]\n"
                                       "be Kuro<end><open>assistant\n");
    ck_assert_uint_eq(toy.last_n_response, 3); /* with the end of the turn */
    ck_assert_float_eq(toy.last_logprob, -0.125f * (TOY_END % 4 + 1));
    ck_assert_uint_eq(toy.last_age, 0);
    ck_assert_uint_eq(toy.last_steps, 1);
    ck_assert_int_eq(toy.last_setting, 3); /* the engine's default */
    /* what the HTTP contract calls metadata */
    ck_assert_double_eq(number(result.metadata, "total_loss"), 0.5);
    ck_assert_double_eq(number(result.metadata, "grad_norm"), 1);
    ck_assert_double_eq(number(result.metadata, "tokens_processed"), 3);
    ck_assert_double_eq(number(result.metadata, "batch_size"), 1);
    ck_assert(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(result.metadata, "kl_reg")));
    const cJSON *texts = json_get(result.metadata, "teacher_scored_texts");
    ck_assert_int_eq(cJSON_GetArraySize(texts), 1);
    ck_assert_ptr_nonnull(
        strstr(cJSON_GetArrayItem(texts, 0)->valuestring, "be Kuro<end><open>assistant\nv0<end>"));
    ck_assert_int_ge(result.timing.total, result.timing.distill + result.timing.save);
    /* the next answer */
    ck_assert_str_eq(chat("ada/tutor", id), "v1");
    /* the record */
    struct state_feedback *rec = NULL;
    ck_ok(state_feedback_get(state, result.request_id, "", &rec, &err), err);
    ck_assert_str_eq(rec->status, "ok");
    ck_assert_str_eq(rec->phase, "done");
    ck_assert_str_eq(rec->adapter, "ada/tutor");
    ck_assert_uint_eq(rec->version_to, 2);
    ck_assert_uint_eq(rec->n_rollouts, 1);
    ck_assert_ptr_nonnull(strstr(rec->metrics_json, "teacher_scored_texts"));
    ck_assert_ptr_nonnull(strstr(rec->items_json, "be Kuro"));
    ck_assert_ptr_nonnull(strstr(rec->timing_json, "distill"));
    struct state_rollout *rated = NULL;
    ck_ok(state_rollout_get(state, rec->rollouts[0], "", &rated, &err), err);
    ck_assert_uint_eq(rated->rated, 1);
    state_rollout_free(rated);
    state_feedback_free(rec);
    /* the log */
    struct adapter_entry *e = NULL;
    ck_ok(adapter_head(a, "ada/tutor", NULL, &e, &err), err);
    ck_assert_str_eq(e->job, result.request_id);
    ck_assert_str_eq(e->engine, "toy");
    ck_assert_str_eq(e->base, "toy-base-1");
    ck_assert_ptr_nonnull(strstr(e->settings_json, "\"burn\":3"));
    adapter_entry_unref(e);
    feedback_result_clear(&result);
}
END_TEST

START_TEST(answers_are_found_by_their_text)
{
    char id[STATE_ID_CAP];
    char newest[STATE_ID_CAP];
    create("x");
    create("y");
    toy.say = "<think>hm</think> It is  me";
    (void)chat("x", id);
    (void)chat("x", newest);
    (void)chat("y", id); /* the same words of another adapter, later */
    const struct feedback_item item = {
        .lora_id = "x", .prompt = "p", .response = "It is\nme ", .feedback = "no"
    };
    ck_ok(run_items(&item, 1), err);
    struct state_feedback *rec = NULL;
    ck_ok(state_feedback_get(state, result.request_id, "", &rec, &err), err);
    ck_assert_str_eq(rec->rollouts[0], newest);
    state_feedback_free(rec);
    feedback_result_clear(&result);
    /* an answer of the base serves an adapter just made */
    toy.say = "from the base";
    (void)chat("", id);
    const struct feedback_item base = {
        .lora_id = "y", .prompt = "p", .response = "from the base", .feedback = "no"
    };
    ck_ok(run_items(&base, 1), err);
    feedback_result_clear(&result);
}
END_TEST

START_TEST(rollouts_outlive_a_restart)
{
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 1000 });
    ck_ok(run_one("x", id, NULL), err);
    ck_assert_uint_eq(result.version_to, 2);
    feedback_result_clear(&result);
    ck_ok(run_one("x", id, NULL), err); /* the same body again is a second step */
    ck_assert_uint_eq(result.version_to, 3);
    ck_assert_uint_eq(toy.last_age, 1);
    feedback_result_clear(&result);
    ck_assert(!sha256_equal(&toy.keys[0], &toy.keys[1]));
}
END_TEST

START_TEST(after_a_rollback_the_same_words_are_a_new_step)
{
    char id[STATE_ID_CAP];
    struct adapter_entry *back = NULL;
    create("x");
    (void)chat("x", id);
    ck_ok(run_one("x", id, NULL), err);
    feedback_result_clear(&result);
    ck_ok(adapter_rollback(a, "x", 1, "", NULL, &back, &err), err);
    adapter_entry_unref(back);
    ck_assert_str_eq(chat("x", id), "v0");
    ck_ok(run_one("x", id, NULL), err);
    ck_assert_uint_eq(result.version_from, 3);
    ck_assert_uint_eq(result.version_to, 4);
    ck_assert_str_eq(chat("x", id), "v1");
    feedback_result_clear(&result);
    /* though from the same state by the same samples */
    ck_assert(!sha256_equal(&toy.keys[0], &toy.keys[1]));
}
END_TEST

START_TEST(batches_and_several_steps)
{
    char one[STATE_ID_CAP];
    char two[STATE_ID_CAP];
    create("x");
    (void)chat("x", one);
    (void)chat("x", two);
    cJSON *t =
        parsed("{\"steps_per_batch\":3,\"burn\":7,\"train_end_token\":false,\"nonsense\":1}");
    cJSON *same = parsed(
        "{\"burn\":7,\"steps_per_batch\":3,\"train_end_token\":false,\"learning_rate\":0.5}");
    const struct feedback_item items[] = {
        { .lora_id = "x", .completion_id = one, .feedback = "a", .training = t },
        { .lora_id = "x-latest", .completion_id = two, .feedback = "b", .training = same },
    };
    ck_ok(run_items(items, 2), err);
    ck_assert_uint_eq(toy.last_steps, 3);
    ck_assert_int_eq(toy.last_setting, 7);
    ck_assert_uint_eq(toy.last_n_response, 2); /* without the end of the turn */
    ck_assert_int_eq(toy.trains, 1);           /* one call */
    ck_assert_uint_eq(result.version_to, 2);   /* one version */
    ck_assert_uint_eq(result.batch_size, 2);
    ck_assert_double_eq(number(result.metadata, "steps_per_batch_applied"), 3);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(result.metadata, "per_step_metrics")), 3);
    ck_assert_double_eq(number(result.metadata, "total_loss"), 0.5 / 3);
    ck_assert_double_eq(number(result.metadata, "tokens_processed"), 12);
    ck_assert_int_eq(cJSON_GetArraySize(result.warnings), 1);
    ck_assert_ptr_nonnull(strstr(cJSON_GetArrayItem(result.warnings, 0)->valuestring, "nonsense"));
    feedback_result_clear(&result);
    ck_assert_str_eq(chat("x", one), "v3");
    cJSON_Delete(t);
    cJSON_Delete(same);
}
END_TEST

START_TEST(configured_defaults_hold_and_requests_override)
{
    char id[STATE_ID_CAP];
    struct option_table table = { 0 };
    struct option_values defaults = { 0 };
    ck_ok(feedback_table(house.instance, &table, &err), err);
    ck_assert_uint_eq(table.n, 4);
    cJSON *said = parsed("{\"burn\":8,\"steps_per_batch\":2}");
    ck_ok(option_values_from_json(&defaults, &table, said, NULL, NULL, NULL, &err), err);
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 1000, .training = &defaults });
    create("x");
    (void)chat("x", id);
    ck_ok(run_one("x", id, NULL), err);
    ck_assert_int_eq(toy.last_setting, 8);
    ck_assert_uint_eq(toy.last_steps, 2);
    feedback_result_clear(&result);
    ck_ok(run_one("x", id, "{\"steps_per_batch\":1,\"burn\":null}"), err);
    ck_assert_int_eq(toy.last_setting, 8);
    ck_assert_uint_eq(toy.last_steps, 1);
    feedback_result_clear(&result);
    cJSON_Delete(said);
    close_rooms();
    open_rooms((struct feedback_options){ .lock_timeout_ms = 1000 });
    option_values_clear(&defaults);
    option_table_clear(&table);
}
END_TEST

/* ---- refusals ---- */

START_TEST(bad_settings_are_all_told)
{
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    ck_failed(run_one("x", id,
                      "{\"learning_rate\":7,\"burn\":\"hot\",\"steps_per_batch\":65,\"other\":1}"),
              CLAAS_ERR_INVALID, err);
    ck_assert_msg(strstr(err.message, "learning_rate") != NULL &&
                      strstr(err.message, "burn") != NULL &&
                      strstr(err.message, "steps_per_batch") != NULL,
                  "%s", err.message);
    ck_assert(!feedback_is_mixed(&err));
    ck_failed(run_one("x", id, "[1]"), CLAAS_ERR_INVALID, err);
    ck_assert_int_eq(toy.trains, 0);
    ck_assert_uint_eq(records(), 0); /* refused before anything was kept */
}
END_TEST

START_TEST(mixed_batches_are_refused)
{
    char id[STATE_ID_CAP];
    create("x");
    create("y");
    (void)chat("x", id);
    cJSON *t = parsed("{\"burn\":4}");
    struct feedback_item items[] = {
        { .lora_id = "x", .completion_id = id, .feedback = "a" },
        { .lora_id = "y", .completion_id = id, .feedback = "b" },
    };
    ck_failed(run_items(items, 2), CLAAS_ERR_INVALID, err);
    ck_assert(feedback_is_mixed(&err));
    items[1].lora_id = "unknown";
    ck_failed(run_items(items, 2), CLAAS_ERR_INVALID, err);
    ck_assert(feedback_is_mixed(&err));
    items[1].lora_id = "x";
    items[1].training = t;
    ck_failed(run_items(items, 2), CLAAS_ERR_INVALID, err);
    ck_assert(feedback_is_mixed(&err));
    ck_assert_ptr_nonnull(strstr(err.message, "training"));
    cJSON_Delete(t);
}
END_TEST

START_TEST(what_cannot_be_found_is_named)
{
    char id[STATE_ID_CAP];
    create("x");
    create("y");
    (void)chat("y", id);
    ck_failed(run_one("nobody", id, NULL), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_str_eq(err.what, "lora_id");
    ck_failed(run_one("../x", id, NULL), CLAAS_ERR_INVALID, err); /* no adapter can have that id */
    ck_failed(run_one("x", "chatcmpl-unknown", NULL), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_str_eq(err.what, "completion_id");
    ck_failed(run_one("x", id, NULL), CLAAS_ERR_INVALID, err); /* y's answer */
    ck_assert_ptr_nonnull(strstr(err.message, "'y'"));
    ck_failed(run_one("y@1", id, NULL), CLAAS_ERR_INVALID, err);
    const struct feedback_item item = {
        .lora_id = "x", .prompt = "p", .response = "Hello,  world\n", .feedback = "no"
    };
    ck_failed(run_items(&item, 1), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_msg(strstr(err.message, "4ae7c3b6ac0beff6") != NULL, "%s", err.message);
    ck_assert_ptr_null(strstr(err.message, "4ae7c3b6ac0beff67"));
    const struct feedback_item batch[] = {
        { .lora_id = "y", .completion_id = id, .feedback = "a" },
        { .lora_id = "y", .completion_id = "c-0", .feedback = "b" }
    };
    ck_failed(run_items(batch, 2), CLAAS_ERR_NOT_FOUND, err); /* a batch is one step or none */
    ck_assert_int_eq(toy.trains, 0);
    ck_assert_uint_eq(records(), 0);
}
END_TEST

START_TEST(incomplete_items_are_refused)
{
    const struct feedback_item items[] = {
        { .lora_id = "", .completion_id = "c", .feedback = "a" },
        { .lora_id = "x", .completion_id = "c", .feedback = "" },
        { .lora_id = "x", .prompt = "p", .feedback = "a" },
        { .lora_id = "x", .prompt = "p", .response = "", .feedback = "a" },
    };
    ck_failed(run_items(&items[_i], 1), CLAAS_ERR_INVALID, err);
    ck_failed(run_items(items, 0), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(answers_that_cannot_be_trained_are_refused)
{
    static const int32_t ids[] = { 65, TOY_END };
    struct state_rollout r = { .id = "c-1",
                               .kind = "chat",
                               .owner = "",
                               .model = "",
                               .adapter = "x",
                               .version = 1,
                               .time_ns = clock_real_ns(),
                               .messages_json = TALK,
                               .text = "A",
                               .visible = "A",
                               .sampler_json = "{}",
                               .finish = "stop",
                               .prompt_ids = ids,
                               .n_prompt = 1,
                               .response_ids = ids,
                               .n_response = 2,
                               .end_tokens = 1 };
    create("x");
    ck_ok(state_rollout_add(state, &r, &err), err);
    ck_failed(run_one("x", "c-1", NULL), CLAAS_ERR_INVALID, err); /* no log-probabilities */
    ck_assert_ptr_nonnull(strstr(err.message, "log-probabilities"));
    static const float logprobs[] = { -1, -1 };
    r.logprobs = logprobs;
    r.n_response = 0;
    r.end_tokens = 0;
    r.id = "c-2";
    ck_ok(state_rollout_add(state, &r, &err), err);
    ck_failed(run_one("x", "c-2", NULL), CLAAS_ERR_INVALID, err); /* an empty answer */
    ck_assert_ptr_nonnull(strstr(err.message, "empty"));
    r.response_ids = ids + 1;
    r.n_response = 1;
    r.end_tokens = 1;
    r.id = "c-3";
    ck_ok(state_rollout_add(state, &r, &err), err);
    ck_failed(run_one("x", "c-3", "{\"train_end_token\":false}"), CLAAS_ERR_INVALID, err);
    r.messages_json = NULL;
    r.id = "c-4";
    ck_ok(state_rollout_add(state, &r, &err), err);
    ck_failed(run_one("x", "c-4", NULL), CLAAS_ERR_INVALID, err); /* no conversation */
    r.messages_json = "[{\"role\":\"assistant\",\"content\":\"a\"}]";
    r.id = "c-5";
    ck_ok(state_rollout_add(state, &r, &err), err);
    ck_failed(run_one("x", "c-5", NULL), CLAAS_ERR_INVALID, err); /* no user message */
    r.messages_json = TALK;
    r.id = "c-6";
    ck_ok(state_rollout_add(state, &r, &err), err);
    toy.context = 100;
    /* too long with the feedback in it */
    ck_failed(run_one("x", "c-6", NULL), CLAAS_ERR_INVALID, err);
    ck_assert_msg(strstr(err.message, "100") != NULL, "%s", err.message);
    ck_assert_int_eq(toy.trains, 0);
    toy.context = 512;
    ck_ok(run_one("x", "c-6", NULL), err);
    feedback_result_clear(&result);
}
END_TEST

static const struct {
    const char *metric; /* null: the engine itself refuses */
    double value;
} spoilt[] = {
    { NULL, 0 },
    { "total_loss", (double)NAN },
    { "total_loss", (double)INFINITY },
    { "grad_norm", -(double)INFINITY },
    { "something_of_its_own", (double)NAN },
};
enum { N_SPOILT = sizeof spoilt / sizeof spoilt[0] };

START_TEST(a_refused_step_changes_nothing)
{
    char id[STATE_ID_CAP];
    create("x");
    (void)chat("x", id);
    toy.fail_trains = spoilt[_i].metric == NULL;
    toy.spoil = spoilt[_i].metric;
    toy.spoilt = spoilt[_i].value;
    ck_failed(run_one("x", id, "{\"steps_per_batch\":2}"), CLAAS_ERR_INTERNAL, err);
    ck_assert_msg(strncmp(err.message, "distill: step refused", 21) == 0, "%s", err.message);
    ck_assert_int_eq(toy.trains, 1); /* no second try at what cannot be */
    ck_record_failed("x", "distill");
    ck_assert_uint_eq(head_of("x"), 1);
    ck_assert_str_eq(chat("x", id), "v0");
    toy.spoil = NULL;
    ck_ok(run_one("x", id, NULL), err); /* and others go on */
    ck_assert_uint_eq(result.version_to, 2);
    feedback_result_clear(&result);
}
END_TEST

/* ---- making adapters ---- */

START_TEST(adapters_are_made)
{
    struct feedback_created made;
    cJSON *spec = parsed("{\"lora_r\":8,\"lora_id\":\"ignored\",\"lora_alpha\":null}");
    struct feedback_create r = { .lora_id = "ada/tutor-latest",
                                 .base_model = "toy/model",
                                 .spec = spec };
    ck_ok(feedback_create(f, &r, &made, &err), err);
    ck_assert_str_eq(made.lora_id, "ada/tutor");
    ck_assert_uint_eq(made.version, 1);
    ck_assert(made.serves);
    ck_assert_int_eq(toy.last_setting, 8);
    char id[STATE_ID_CAP];
    (void)chat("ada/tutor", id);
    ck_ok(run_one("ada/tutor", id, NULL), err);
    feedback_result_clear(&result);
    r.base_model = NULL;
    ck_ok(feedback_create(f, &r, &made, &err), err); /* again: fresh, with its history behind it */
    ck_assert_uint_eq(made.version, 3);
    ck_assert_str_eq(chat("ada/tutor", id), "v0");
    ck_assert_str_eq(chat("ada/tutor@2", id), "v1");
    cJSON_Delete(spec);
}
END_TEST

START_TEST(adapters_that_cannot_be_are_refused)
{
    static const char *const allowed[] = { "Other/Base", NULL };
    struct feedback_created made;
    close_rooms();
    open_rooms((struct feedback_options){ .allowed_bases = allowed });
    struct feedback_create r = { .lora_id = "x", .base_model = "Qwen/Qwen3-8B" };
    ck_failed(feedback_create(f, &r, &made, &err), CLAAS_ERR_FORBIDDEN, err);
    ck_assert_msg(strstr(err.message, "toy/model, Other/Base") != NULL, "%s", err.message);
    r.base_model = "Other/Base";
    ck_ok(feedback_create(f, &r, &made, &err), err);
    r.base_model = NULL;
    static const char *const bad[] = { "",  "..",      "../x", "a//b", "a/../b",
                                       "/", ".hidden", "a b",  "x\n" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        r.lora_id = bad[i];
        ck_failed(feedback_create(f, &r, &made, &err), CLAAS_ERR_INVALID, err);
    }
    cJSON *spec = parsed("{\"lora_r\":0,\"lora_alpha\":\"much\"}");
    r.lora_id = "y";
    r.spec = spec;
    int creates = toy.creates;
    ck_failed(feedback_create(f, &r, &made, &err), CLAAS_ERR_INVALID, err);
    ck_assert_msg(strstr(err.message, "lora_r") != NULL &&
                      strstr(err.message, "lora_alpha") != NULL,
                  "%s", err.message);
    ck_assert_int_eq(toy.creates, creates);
    cJSON_Delete(spec);
}
END_TEST

START_TEST(another_base_is_refused)
{
    char id[STATE_ID_CAP];
    struct adapter_out *out = NULL;
    struct adapter_entry *entry = NULL;
    const struct adapter_out_params params = { .id = "x", .base = "other-base" };
    const struct adapter_commit c = {
        .kind = ADAPTER_IMPORT, .job = "j", .engine = "toy", .base_name = "other/model"
    };
    ck_ok(adapter_out_new(a, &params, &out, &err), err);
    struct claas_out *abi = adapter_out_abi(out);
    struct claas_digest d;
    ck_ok(abi->write(abi, "weights.txt", CLAAS_SERVE, "w", 1, &err), err);
    ck_ok(abi->seal(abi, "toy/1", &d, &d, &err), err);
    ck_ok(adapter_commit(a, "x", &c, out, NULL, &entry, &err), err);
    adapter_entry_unref(entry);
    adapter_out_free(out);
    (void)chat("", id);
    ck_failed(run_one("x", id, NULL), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "other/model"));
    ck_assert_int_eq(toy.trains, 0);
    ck_failed(serving_follow(serving, "x", NULL, &err), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "other/model"));
    ck_assert_int_eq(toy.loads, 0);
}
END_TEST

START_TEST(without_an_engine_it_says_so)
{
    struct feedback *none = NULL;
    struct feedback_created made;
    const struct feedback_options options = { .adapters = a, .state = state };
    const struct feedback_item item = { .lora_id = "x", .completion_id = "c", .feedback = "f" };
    const struct feedback_request r = { .items = &item, .n_items = 1 };
    const struct feedback_create c = { .lora_id = "x" };
    ck_ok(feedback_open(&options, &none, &err), err);
    ck_failed(feedback_run(none, &r, &result, &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_ptr_nonnull(strstr(err.message, "engine"));
    ck_failed(feedback_create(none, &c, &made, &err), CLAAS_ERR_UNAVAILABLE, err);
    feedback_close(none);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("feedback");
    TCase *t = tcase_create("feedback");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, feedback_makes_the_next_version_answer);
    tcase_add_test(t, answers_are_found_by_their_text);
    tcase_add_test(t, rollouts_outlive_a_restart);
    tcase_add_test(t, after_a_rollback_the_same_words_are_a_new_step);
    tcase_add_test(t, batches_and_several_steps);
    tcase_add_test(t, configured_defaults_hold_and_requests_override);
    tcase_add_test(t, bad_settings_are_all_told);
    tcase_add_test(t, mixed_batches_are_refused);
    tcase_add_test(t, what_cannot_be_found_is_named);
    tcase_add_loop_test(t, incomplete_items_are_refused, 0, 4);
    tcase_add_test(t, answers_that_cannot_be_trained_are_refused);
    tcase_add_loop_test(t, a_refused_step_changes_nothing, 0, N_SPOILT);
    tcase_add_test(t, adapters_are_made);
    tcase_add_test(t, adapters_that_cannot_be_are_refused);
    tcase_add_test(t, another_base_is_refused);
    tcase_add_test(t, without_an_engine_it_says_so);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
