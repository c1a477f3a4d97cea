/* SPDX-License-Identifier: MIT */
/* Keys: who gets in, with what rights, how long, and how often. */
#include "config.h"

#include "testing.h"

#include "access/access.h"
#include "base/clock.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char dir[64];
static struct claas_error err;
static struct state *state;
static struct access *access_room;

static void setup(void)
{
    (void)snprintf(dir, sizeof dir, "/tmp/claas-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    err = ERR_INIT;
    ck_ok(state_open(dir, NULL, &state, &err), err);
    ck_ok(access_open(dir, state, ACCESS_AUTO, &access_room, &err), err);
}

static void teardown(void)
{
    access_close(access_room);
    state_close(state);
    ck_ok(dir_remove(dir, &err), err);
}

/* As `claas key add` does it beside a daemon. */
static void make(struct access_key k, char id[STATE_KEY_ID_CAP], char token[ACCESS_TOKEN_CAP])
{
    struct state *beside = NULL;
    k.name = "test";
    k.prefix = k.prefix ? k.prefix : "";
    ck_ok(state_open_beside(dir, &beside, &err), err);
    ck_ok(access_key_make(beside, &k, id, token, &err), err);
    state_close(beside);
    (void)usleep(250000); /* longer than the picture of the keys may be old */
}

static int admit(const char *token, struct access_caller *c)
{
    err = ERR_INIT;
    return access_admit(access_room, token, c, &err);
}

START_TEST(without_keys_nobody_needs_one)
{
    struct access_caller c;
    ck_ok(admit(NULL, &c), err);
    ck_ok(admit("dummy", &c), err);
    ck_assert(access_has(&c, ACCESS_ADMIN) && access_has(&c, ACCESS_CHAT));
    ck_assert_str_eq(c.key, "");
    ck_assert_ptr_null(access_sees(&c));
}
END_TEST

START_TEST(with_keys_only_they_count)
{
    struct access_caller c;
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    make((struct access_key){ .rights = ACCESS_CHAT, .prefix = "me/" }, id, token);
    ck_failed(admit(NULL, &c), CLAAS_ERR_UNAUTHORISED, err);
    ck_failed(admit("dummy", &c), CLAAS_ERR_UNAUTHORISED, err);
    ck_ok(admit(token, &c), err);
    ck_assert_str_eq(c.key, id);
    ck_assert_str_eq(access_sees(&c), id);
    ck_assert(access_has(&c, ACCESS_CHAT) && !access_has(&c, ACCESS_FEEDBACK) && !access_has(&c, ACCESS_ADMIN));
    ck_assert(access_owns(&c, "me/a") && access_owns(&c, "me") && !access_owns(&c, "mel/a") && !access_owns(&c, "a"));
    for (size_t i = 0; i < strlen(token); i++) { /* any digit of it */
        char wrong[ACCESS_TOKEN_CAP];
        memcpy(wrong, token, sizeof wrong);
        wrong[i] = wrong[i] == '0' ? '1' : '0';
        ck_failed(admit(wrong, &c), CLAAS_ERR_UNAUTHORISED, err);
        ck_assert_uint_eq(c.rights, 0);
    }
}
END_TEST

START_TEST(the_secret_is_not_stored)
{
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    struct buf all = BUF_INIT;
    static const char *const files[] = { "state.db", "state.db-wal" };
    make((struct access_key){ .rights = ACCESS_CHAT }, id, token);
    for (size_t i = 0; i < 2; i++) {
        char *path = path_join(dir, files[i]);
        buf_cut(&all, 0);
        ck_ok(file_read(path, 64 << 20, &all, &err), err);
        ck_assert_ptr_null(memmem(all.data, all.len, token + 19, 64));
        free(path);
    }
    buf_clear(&all);
}
END_TEST

START_TEST(revoked_and_expired_keys_stay_out)
{
    struct access_caller c;
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    char other[ACCESS_TOKEN_CAP];
    struct state *beside = NULL;
    make((struct access_key){ .rights = ACCESS_CHAT, .lasts_ns = 1 }, id, token);
    ck_failed(admit(token, &c), CLAAS_ERR_UNAUTHORISED, err);
    ck_assert_ptr_nonnull(strstr(err.message, "expired"));
    make((struct access_key){ .rights = ACCESS_CHAT }, id, token);
    ck_ok(admit(token, &c), err);
    ck_ok(state_open_beside(dir, &beside, &err), err);
    ck_ok(state_key_revoke(beside, id, clock_real_ns(), &err), err);
    ck_failed(state_key_revoke(beside, "nobody", 1, &err), CLAAS_ERR_NOT_FOUND, err);
    state_close(beside);
    (void)usleep(250000);
    ck_failed(admit(token, &c), CLAAS_ERR_UNAUTHORISED, err);
    ck_assert_ptr_nonnull(strstr(err.message, "revoked"));
    ck_failed(admit(NULL, &c), CLAAS_ERR_UNAUTHORISED, err); /* the last one revoked opens no door */
    make((struct access_key){ .rights = ACCESS_ADMIN }, id, other);
    ck_ok(admit(other, &c), err);
    ck_assert_ptr_null(access_sees(&c));
}
END_TEST

START_TEST(quotas_end_and_are_kept)
{
    struct access_caller c;
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    int full = 0;
    make((struct access_key){ .rights = ACCESS_CHAT, .requests_a_minute = 3 }, id, token);
    for (int i = 0; i < 8 && !full; i++) { /* a minute may end in between: once */
        full = admit(token, &c) == CLAAS_ERR_EXHAUSTED;
        ck_assert(full || i < 7);
    }
    ck_assert_ptr_nonnull(strstr(err.message, "3 requests a minute"));
    ck_assert(err.retry_after_ms <= 60000);
    make((struct access_key){ .rights = ACCESS_CHAT, .steps_an_hour = 1, .bytes_a_day = 10 }, id, token);
    ck_ok(admit(token, &c), err);
    ck_ok(access_step(access_room, &c, &err), err);
    ck_failed(access_step(access_room, &c, &err), CLAAS_ERR_EXHAUSTED, err);
    access_step_back(access_room, &c); /* refused for another reason, or known already */
    ck_ok(access_step(access_room, &c, &err), err);
    ck_failed(access_step(access_room, &c, &err), CLAAS_ERR_EXHAUSTED, err);
    access_bytes(access_room, &c, 10);
    access_close(access_room); /* as over a restart */
    access_room = NULL;
    ck_ok(access_open(dir, state, ACCESS_ON, &access_room, &err), err);
    err = ERR_INIT;
    ck_failed(access_step(access_room, &c, &err), CLAAS_ERR_EXHAUSTED, err);
    ck_failed(admit(token, &c), CLAAS_ERR_EXHAUSTED, err);
    ck_assert_ptr_nonnull(strstr(err.message, "10 bytes a day"));
}
END_TEST

START_TEST(bad_keys_are_not_made)
{
    static const struct access_key rows[] = {
        { .name = "", .prefix = "", .rights = 1 },        { .name = "a\nb", .prefix = "", .rights = 1 },
        { .name = "a", .prefix = "../x", .rights = 1 },   { .name = "a", .prefix = "a//b", .rights = 1 },
        { .name = "a", .prefix = "x", .rights = ACCESS_ADMIN },
        { .name = "a", .prefix = "", .rights = 1, .steps_an_hour = -1 },
    };
    char id[STATE_KEY_ID_CAP];
    char token[ACCESS_TOKEN_CAP];
    ck_failed(access_key_make(state, &rows[_i], id, token, &err), CLAAS_ERR_INVALID, err);
    uint32_t rights = 0;
    ck_failed(access_rights_parse("chat,root", &rights, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("access");
    TCase *t = tcase_create("keys");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, without_keys_nobody_needs_one);
    tcase_add_test(t, with_keys_only_they_count);
    tcase_add_test(t, the_secret_is_not_stored);
    tcase_add_test(t, revoked_and_expired_keys_stay_out);
    tcase_add_test(t, quotas_end_and_are_kept);
    tcase_add_loop_test(t, bad_keys_are_not_made, 0, 6);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
