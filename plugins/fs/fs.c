/* SPDX-License-Identifier: MIT */
/* fs: objects as files below one directory, for one host or many on a shared file system. The
 * table, open, close. */
#include "config.h"

#include "fs.h"

#include "base/err.h"
#include "base/file.h"
#include "base/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPTION_ROOT, OPTION_FSYNC };

static const struct claas_option fs_options[] = {
    { "root", NULL, NULL, "directory that holds the store; made when absent", 1, 0, CLAAS_PATH,
      CLAAS_REQUIRED },
    { "fsync", "true", NULL,
      "wait until each object is on disk before it counts as stored; off only for tests", 1, 0,
      CLAAS_BOOL, 0 },
    { .name = NULL },
};

static int fs_check(const struct claas_value *values, struct claas_error *err)
{
    if (!values[OPTION_ROOT].s || values[OPTION_ROOT].s[0] == '\0') {
        return err_set(err, CLAAS_ERR_INVALID, "root", "the storage needs a directory as its root");
    }
    return 0;
}

static void fs_close(void *self)
{
    struct fs *fs = self;
    if (!fs) {
        return;
    }
    if (fs->tmp_fd >= 0) {
        (void)close(fs->tmp_fd); /* directories: nothing can be lost */
    }
    if (fs->root_fd >= 0) {
        (void)close(fs->root_fd);
    }
    free(fs->root);
    free(fs);
}

/* Makes one of our own directories below the root and clears what dead processes left there. */
static int fs_own_dir(const struct fs *fs, const char *name, int *out_fd, struct claas_error *err)
{
    if (mkdirat(fs->root_fd, name, 0750) && errno != EEXIST) {
        return err_errno(err, errno, "root", "cannot make the directory '%s/%s'", fs->root, name);
    }
    int fd = openat(fs->root_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, "root", "cannot open the directory '%s/%s'", fs->root, name);
    }
    char *path = path_join(fs->root, name);
    if (!path) {
        (void)close(fd);
        return err_oom(err, "opening a store");
    }
    spool_sweep(path);
    free(path);
    *out_fd = fd;
    return 0;
}

static int fs_start(struct fs *fs, const char *root, struct claas_error *err)
{
    int rc = dir_make(root, 0750, err);
    if (rc) {
        return rc;
    }
    fs->root = realpath(root, NULL);
    fs->root_fd = fs->root ? open(fs->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fs->root_fd < 0) {
        return err_errno(err, errno, "root", "cannot open the directory '%s'", root);
    }
    int spool_fd = -1;
    rc = fs_own_dir(fs, FS_TMP, &fs->tmp_fd, err);
    if (rc == 0) {
        rc = fs_own_dir(fs, FS_SPOOL, &spool_fd, err);
    }
    if (spool_fd >= 0) {
        (void)close(spool_fd); /* a directory: nothing can be lost */
    }
    return rc;
}

static int fs_open(const struct claas_host *host, uint32_t kinds, const struct claas_value *values,
                   const struct claas_call *call, void **out_self, struct claas_error *err)
{
    (void)host;
    (void)call;
    if (kinds & ~(uint32_t)CLAAS_STORAGE) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin", "fs is a storage plugin only");
    }
    int rc = fs_check(values, err);
    if (rc) {
        return rc;
    }
    struct fs *fs = calloc(1, sizeof *fs);
    if (!fs) {
        return err_oom(err, "opening a store");
    }
    fs->root_fd = -1;
    fs->tmp_fd = -1;
    fs->sync = values[OPTION_FSYNC].i != 0;
    rc = fs_start(fs, values[OPTION_ROOT].s, err);
    if (rc) {
        fs_close(fs);
        return rc;
    }
    *out_self = fs;
    return 0;
}

static int fs_status(void *self, struct claas_status *out)
{
    const struct fs *fs = self;
    out->state = CLAAS_READY;
    (void)snprintf(out->text, sizeof out->text, "%s", fs->root); /* a long path may be cut */
    return 0;
}

static int fs_spool(void *self, char *buf, size_t cap, struct claas_error *err)
{
    const struct fs *fs = self;
    if (strlen(fs->root) + sizeof "/" FS_SPOOL > cap) {
        return err_set(err, CLAAS_ERR_INVALID, NULL,
                       "the path of the spool does not fit into %zu bytes", cap);
    }
    (void)snprintf(buf, cap, "%s/%s", strcmp(fs->root, "/") == 0 ? "" : fs->root,
                   FS_SPOOL); /* checked: fits */
    return 0;
}

static const struct claas_storage fs_storage = {
    .size = sizeof fs_storage,
    .probe = fs_probe,
    .put = fs_put,
    .get = fs_get,
    .head = fs_head,
    .list = fs_list,
    .remove = fs_remove,
    .path = fs_path,
    .spool = fs_spool,
};

static const struct claas_plugin fs_plugin = {
    .size = sizeof fs_plugin,
    .abi = CLAAS_ABI,
    .name = "fs",
    .version = PACKAGE_VERSION,
    .summary = "storage in a local or shared directory",
    .licence = "MIT",
    .flags = CLAAS_PARALLEL,
    .option_size = sizeof fs_options[0],
    .options = fs_options,
    .check = fs_check,
    .open = fs_open,
    .close = fs_close,
    .status = fs_status,
    .storage = &fs_storage,
};

const struct claas_plugin *claas_plugin_entry(uint32_t host_abi)
{
    (void)host_abi; /* the host compares; nothing here depends on it */
    return &fs_plugin;
}
