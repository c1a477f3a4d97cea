/* SPDX-License-Identifier: MIT */
/* The fs plugin by its table, over a real directory. */
#include "config.h"

#include "store.h"

#include "base/buf.h"
#include "base/spool.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const struct claas_plugin *plugin;
static const struct claas_storage *fs;
static void *self;

static void *open_store(int sync)
{
    struct claas_value values[2] = { { .s = test_root, .given = 1 }, { .i = sync } };
    void *opened = NULL;
    struct claas_error err = ERR_INIT;
    ck_ok(plugin->open(NULL, CLAAS_STORAGE, values, NULL, &opened, &err), err);
    return opened;
}

static void setup(void)
{
    plugin = claas_plugin_entry(CLAAS_ABI);
    fs = plugin->storage;
    test_root_make();
    self = open_store(1);
}

static void teardown(void)
{
    plugin->close(self);
    test_root_remove();
}

static int put(const char *key, const char *text, uint32_t flags, struct claas_error *err)
{
    int fd = test_memory(text, strlen(text));
    struct claas_put p = { .size = sizeof p, .flags = flags, .bytes = strlen(text), .fd = fd };
    int rc = fs->put(self, key, &p, NULL, err);
    close(fd);
    return rc;
}

static int get(const char *key, uint64_t from, uint64_t bytes, struct buf *out,
               struct claas_error *err)
{
    int fd = test_memory("", 0);
    struct claas_object object = { .size = sizeof object };
    int rc = fs->get(self, key, from, bytes, fd, &object, NULL, err);
    if (rc == 0) {
        char text[4096];
        ssize_t n = pread(fd, text, sizeof text, 0);
        buf_cut(out, 0);
        buf_add(out, text, (size_t)n);
    }
    close(fd);
    return rc;
}

START_TEST(objects_come_back)
{
    struct claas_error err = ERR_INIT;
    struct buf b = BUF_INIT;
    struct claas_object object = { .size = sizeof object };
    ck_ok(put("a/b/c", "hello world", 0, &err), err);
    ck_ok(get("a/b/c", 0, UINT64_MAX, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), "hello world");
    ck_ok(get("a/b/c", 6, 3, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), "wor");
    ck_ok(get("a/b/c", 11, 3, &b, &err), err);
    ck_assert_uint_eq(b.len, 0);
    ck_failed(get("a/b/c", 12, 3, &b, &err), CLAAS_ERR_INVALID, err);
    ck_ok(fs->head(self, "a/b/c", &object, NULL, &err), err);
    ck_assert_uint_eq(object.bytes, 11);
    ck_assert_int_gt(object.modified_ns, 0);
    ck_ok(put("a/b/c", "new", 0, &err), err);
    ck_ok(get("a/b/c", 0, 100, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), "new");
    ck_ok(put("empty", "", CLAAS_IF_ABSENT, &err), err);
    ck_ok(fs->head(self, "empty", &object, NULL, &err), err);
    ck_assert_uint_eq(object.bytes, 0);
    ck_failed(get("a/b", 0, 1, &b, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(get("a/b/c/d", 0, 1, &b, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(get("zzz", 0, 1, &b, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_ptr_nonnull(strstr(err.message, "zzz"));
    buf_clear(&b);
}
END_TEST

START_TEST(creation_has_one_winner)
{
    struct claas_error err = ERR_INIT;
    struct buf b = BUF_INIT;
    ck_ok(put("log/x/1", "first", CLAAS_IF_ABSENT, &err), err);
    ck_failed(put("log/x/1", "second", CLAAS_IF_ABSENT, &err), CLAAS_ERR_CONFLICT, err);
    ck_ok(get("log/x/1", 0, 100, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), "first");
    uint32_t caps = 0;
    ck_ok(fs->probe(self, &caps, NULL, &err), err);
    ck_assert_uint_eq(caps, CLAAS_STORE_ATOMIC);
    buf_clear(&b);
}
END_TEST

static const char *const bad_keys[] = {
    "",    "/",    "/a",  "a/",     "a//b", ".",        "..",   "../x",     "a/../b", "a/./b",
    "a b", "a\\b", "a+b", "+tmp/x", "a\nb", "\xC3\xA9", "a/..", "%2e%2e/x", "a:b",    "a*",
};

START_TEST(bad_keys_are_refused)
{
    struct claas_error err = ERR_INIT;
    struct buf b = BUF_INIT;
    struct claas_object object = { .size = sizeof object };
    const char *key = bad_keys[_i];
    char path[600];
    ck_failed(put(key, "x", 0, &err), CLAAS_ERR_INVALID, err);
    ck_failed(get(key, 0, 1, &b, &err), CLAAS_ERR_INVALID, err);
    ck_failed(fs->head(self, key, &object, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_failed(fs->remove(self, &key, 1, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_failed(fs->path(self, key, path, sizeof path, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(long_keys_have_limits)
{
    struct claas_error err = ERR_INIT;
    char key[1024];
    memset(key, 'k', sizeof key);
    key[240] = '\0';
    ck_ok(put(key, "x", CLAAS_IF_ABSENT, &err), err);
    key[240] = 'k';
    key[241] = '\0';
    ck_failed(put(key, "x", 0, &err), CLAAS_ERR_INVALID, err);
    memset(key, 'd', sizeof key);
    for (size_t i = 99; i < 900; i += 100) {
        key[i] = '/';
    }
    key[899] = 'd';
    key[900] = '\0';
    ck_ok(put(key, "x", 0, &err), err);
    key[900] = 'd';
    key[901] = '\0';
    ck_failed(put(key, "x", 0, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(links_out_of_the_root_are_not_followed)
{
    struct claas_error err = ERR_INIT;
    struct buf b = BUF_INIT;
    char outside[] = "/tmp/claas-outside-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(outside));
    char *secret = path_join(outside, "secret");
    ck_ok(file_write_durable(secret, "s", 1, 0600, &err), err);
    char *dir_link = path_join(test_root, "out");
    char *file_link = path_join(test_root, "file");
    ck_assert_int_eq(symlink(outside, dir_link), 0);
    ck_assert_int_eq(symlink(secret, file_link), 0);
    ck_failed(get("out/secret", 0, 1, &b, &err), CLAAS_ERR_FORBIDDEN, err);
    ck_failed(get("file", 0, 1, &b, &err), CLAAS_ERR_FORBIDDEN, err);
    ck_failed(put("out/new", "x", 0, &err), CLAAS_ERR_FORBIDDEN, err);
    ck_failed(put("file", "x", CLAAS_IF_ABSENT, &err), CLAAS_ERR_FORBIDDEN, err);
    const char *key = "out/secret";
    ck_failed(fs->remove(self, &key, 1, NULL, &err), CLAAS_ERR_FORBIDDEN, err);
    ck_assert_int_eq(access(secret, F_OK), 0);
    ck_ok(dir_remove(outside, &err), err);
    free(secret);
    free(dir_link);
    free(file_link);
}
END_TEST

START_TEST(an_object_is_no_directory)
{
    struct claas_error err = ERR_INIT;
    ck_ok(put("a", "x", 0, &err), err);
    ck_failed(put("a/b", "x", 0, &err), CLAAS_ERR_INVALID, err);
    ck_ok(put("d/e", "x", 0, &err), err);
    ck_failed(put("d", "x", 0, &err), CLAAS_ERR_INVALID, err);
    ck_failed(put("d", "x", CLAAS_IF_ABSENT, &err), CLAAS_ERR_INVALID, err);
    const char *keys[] = { "d/e", "never", "a" };
    ck_ok(fs->remove(self, keys, 3, NULL, &err), err);
    ck_ok(put("d", "x", CLAAS_IF_ABSENT, &err), err);
    ck_ok(put("a/b", "x", CLAAS_IF_ABSENT, &err), err);
}
END_TEST

struct listed {
    struct buf text;
    int stop_after;
};

static int list_each(void *ctx, const char *key, const struct claas_object *object)
{
    struct listed *l = ctx;
    ck_assert_uint_eq(object->bytes, 1);
    buf_addf(&l->text, "%s ", key);
    return l->stop_after > 0 && --l->stop_after == 0;
}

static void check_list(const char *prefix, const char *after, uint32_t limit, const char *expected)
{
    struct claas_error err = ERR_INIT;
    struct listed l = { .text = BUF_INIT };
    ck_ok(fs->list(self, prefix, after, limit, list_each, &l, NULL, &err), err);
    ck_assert_str_eq(buf_str(&l.text), expected);
    buf_clear(&l.text);
}

START_TEST(lists_are_in_byte_order)
{
    struct claas_error err = ERR_INIT;
    /* '-' and '.' sort before '/', digits and letters behind it */
    static const char *const keys[] = {
        "a/b", "a-b", "a.b", "a0", "a/a/z", "b", "a/a-", "A", "ab/c"
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        ck_ok(put(keys[i], "x", 0, &err), err);
    }
    char *foreign = path_join(test_root, "lost+found");
    ck_assert_int_eq(mkdir(foreign, 0700), 0);
    free(foreign);
    check_list("", "", 0, "A a-b a.b a/a- a/a/z a/b a0 ab/c b ");
    check_list(NULL, NULL, 3, "A a-b a.b ");
    check_list("a", "a.b", 0, "a/a- a/a/z a/b a0 ab/c ");
    check_list("a/", "", 0, "a/a- a/a/z a/b ");
    check_list("a/a", "", 0, "a/a- a/a/z ");
    check_list("a/", "a/a/z", 1, "a/b ");
    check_list("a/", "a/zzz", 0, "");
    check_list("", "a/a", 2, "a/a- a/a/z ");
    check_list("nothing/here/", "", 0, "");
    check_list("b/", "", 0, "");
    struct listed l = { .text = BUF_INIT, .stop_after = 2 };
    ck_ok(fs->list(self, "", "", 0, list_each, &l, NULL, &err), err);
    ck_assert_str_eq(buf_str(&l.text), "A a-b ");
    buf_clear(&l.text);
    ck_failed(fs->list(self, "../", "", 0, list_each, &l, NULL, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(emptied_directories_go)
{
    struct claas_error err = ERR_INIT;
    char *dir = path_join(test_root, "x");
    const char *keys[] = { "x/y/z", "x/y/w" };
    ck_ok(put(keys[0], "x", 0, &err), err);
    ck_ok(put(keys[1], "x", 0, &err), err);
    ck_ok(fs->remove(self, keys, 1, NULL, &err), err);
    ck_assert_int_eq(access(dir, F_OK), 0);
    ck_ok(fs->remove(self, keys, 2, NULL, &err), err);
    ck_assert_int_eq(access(dir, F_OK), -1);
    ck_ok(fs->remove(self, keys, 2, NULL, &err), err);
    free(dir);
}
END_TEST

START_TEST(spooled_files_are_linked)
{
    struct claas_error err = ERR_INIT;
    char spool[512];
    char stored[512];
    struct stat before;
    struct stat after;
    ck_ok(fs->spool(self, spool, sizeof spool, &err), err);
    ck_failed(fs->spool(self, spool, 10, &err), CLAAS_ERR_INVALID, err);
    char *path = path_join(spool, "file");
    ck_ok(file_write_durable(path, "linked", 6, 0440, &err), err);
    ck_assert_int_eq(stat(path, &before), 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct claas_put p = { .size = sizeof p, .bytes = 6, .fd = fd, .path = path };
    ck_ok(fs->put(self, "blobs/l", &p, NULL, &err), err);
    ck_ok(fs->path(self, "blobs/l", stored, sizeof stored, &err), err);
    ck_assert_int_eq(stat(stored, &after), 0);
    ck_assert_uint_eq(before.st_ino, after.st_ino);
    /* a path that is not the open file is not believed */
    p.bytes = 3;
    ck_ok(fs->put(self, "blobs/m", &p, NULL, &err), err);
    ck_ok(fs->path(self, "blobs/m", stored, sizeof stored, &err), err);
    ck_assert_int_eq(stat(stored, &after), 0);
    ck_assert_uint_ne(before.st_ino, after.st_ino);
    ck_assert_int_eq(after.st_size, 3);
    /* an object can be put again from its own path: it becomes young */
    struct timespec old[2] = { { 1000, 0 }, { 1000, 0 } };
    ck_assert_int_eq(utimensat(AT_FDCWD, stored, old, 0), 0);
    int again = open(stored, O_RDONLY | O_CLOEXEC);
    p = (struct claas_put){ .size = sizeof p, .bytes = 3, .fd = again, .path = stored };
    ck_ok(fs->put(self, "blobs/m", &p, NULL, &err), err);
    ck_assert_int_eq(stat(stored, &after), 0);
    ck_assert_int_gt(after.st_mtim.tv_sec, 1000);
    ck_failed(fs->path(self, "blobs/none", stored, sizeof stored, &err), CLAAS_ERR_NOT_FOUND, err);
    p.bytes = 7;
    p.path = NULL;
    ck_failed(fs->put(self, "blobs/short", &p, NULL, &err), CLAAS_ERR_INVALID, err);
    close(again);
    close(fd);
    free(path);
}
END_TEST

/* Number of entries of a directory below the root. */
static int count_entries(const char *name)
{
    char command[200];
    (void)snprintf(command, sizeof command, "ls -A %s/%s | wc -l", test_root, name);
    FILE *f = popen(command, "r");
    int n = -1;
    ck_assert_int_eq(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

START_TEST(leftovers_of_the_dead_are_swept)
{
    struct claas_error err = ERR_INIT;
    char *tmp = path_join(test_root, "+tmp/dead");
    char *parent = path_join(test_root, "+spool");
    ck_ok(file_write_durable(tmp, "x", 1, 0600, &err), err);
    struct spool mine = { .fd = -1 };
    ck_ok(spool_make(parent, &mine, &err), err);
    pid_t child = fork();
    if (child == 0) {
        struct spool theirs;
        _exit(spool_make(parent, &theirs, NULL) ? 1 : 0); /* dies without dropping it */
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(count_entries("+spool"), 2);
    void *second = open_store(1);
    ck_assert_int_eq(count_entries("+spool"), 1);
    ck_assert_int_eq(count_entries("+tmp"), 0);
    ck_assert_int_eq(access(mine.path, F_OK), 0);
    spool_drop(&mine);
    ck_assert_int_eq(count_entries("+spool"), 0);
    plugin->close(second);
    free(tmp);
    free(parent);
}
END_TEST

/* Children put and remove the same keys in the same directory: none may fail, and no temporary
 * stays. */
START_TEST(cleaning_does_not_race_puts)
{
    pid_t children[4];
    for (int c = 0; c < 4; c++) {
        children[c] = fork();
        if (children[c] == 0) {
            self = open_store(0);
            int failed = 0;
            for (int i = 0; i < 300 && !failed; i++) {
                char key[40];
                const char *k = key;
                (void)snprintf(key, sizeof key, "deep/er/%d", c);
                failed = put(key, "x", 0, NULL) || fs->remove(self, &k, 1, NULL, NULL);
            }
            _exit(failed);
        }
    }
    for (int c = 0; c < 4; c++) {
        int status = 0;
        ck_assert_int_eq(waitpid(children[c], &status, 0), children[c]);
        ck_assert_int_eq(status, 0);
    }
    ck_assert_int_eq(count_entries("+tmp"), 0);
    check_list("deep/", "", 0, "");
}
END_TEST

static uint32_t no_time(const struct claas_call *call)
{
    (void)call;
    return 0;
}

START_TEST(a_cancelled_call_stops)
{
    struct claas_error err = ERR_INIT;
    struct claas_call call = { .size = sizeof call, .left_ms = no_time };
    int fd = test_memory("x", 1);
    struct claas_put p = { .size = sizeof p, .bytes = 1, .fd = fd };
    ck_failed(fs->put(self, "k", &p, &call, &err), CLAAS_ERR_CANCELLED, err);
    ck_failed(fs->get(self, "k", 0, 1, fd, NULL, &call, &err), CLAAS_ERR_CANCELLED, err);
    close(fd);
}
END_TEST

START_TEST(a_bad_root_is_refused)
{
    struct claas_error err = ERR_INIT;
    void *opened = NULL;
    struct claas_value values[2] = { { .s = "", .given = 1 }, { .i = 1 } };
    ck_failed(plugin->open(NULL, CLAAS_STORAGE, values, NULL, &opened, &err), CLAAS_ERR_INVALID,
              err);
    values[0].s = "/dev/null/store";
    ck_assert_int_ne(plugin->open(NULL, CLAAS_STORAGE, values, NULL, &opened, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "/dev/null"));
    ck_assert_ptr_null(opened);
}
END_TEST

START_TEST(the_manual_names_every_option)
{
    struct claas_error err = ERR_INIT;
    struct buf page = BUF_INIT;
    const char *top = getenv("abs_top_srcdir");
    char *path = path_join(top ? top : ".", "man/claas-fs.7");
    ck_ok(file_read(path, 1 << 20, &page, &err), err);
    for (const struct claas_option *o = plugin->options; o->name; o++) {
        char item[64];
        (void)snprintf(item, sizeof item, ".It Cm %s\n", o->name);
        ck_assert_msg(strstr(page.data, item), "%s is not in the manual", o->name);
    }
    buf_clear(&page);
    free(path);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("fs");
    TCase *t = tcase_create("fs");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, objects_come_back);
    tcase_add_test(t, creation_has_one_winner);
    tcase_add_loop_test(t, bad_keys_are_refused, 0, sizeof bad_keys / sizeof *bad_keys);
    tcase_add_test(t, long_keys_have_limits);
    tcase_add_test(t, links_out_of_the_root_are_not_followed);
    tcase_add_test(t, an_object_is_no_directory);
    tcase_add_test(t, lists_are_in_byte_order);
    tcase_add_test(t, emptied_directories_go);
    tcase_add_test(t, spooled_files_are_linked);
    tcase_add_test(t, leftovers_of_the_dead_are_swept);
    tcase_add_test(t, cleaning_does_not_race_puts);
    tcase_add_test(t, a_cancelled_call_stops);
    tcase_add_test(t, a_bad_root_is_refused);
    tcase_add_test(t, the_manual_names_every_option);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
