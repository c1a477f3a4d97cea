/* SPDX-License-Identifier: MIT */
/* From a plugin's name to its table: search path, ownership and modes, dlopen, the one door. A file
 * is never unloaded: exit handlers, thread-local destructors and a driver's registrations outlive
 * the code. */
#include "config.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "host/internal.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef const struct claas_plugin *(*entry_fn)(uint32_t host_abi);

/* The next directory of a search path, on the heap; empty parts are left out. Null at the end or
 * out of memory. */
static char *search_next(const char **search)
{
    while (**search == ':') {
        (*search)++;
    }
    size_t n = strcspn(*search, ":");
    if (n == 0) {
        return NULL;
    }
    char *dir = mem_dup(*search, n);
    *search += n;
    return dir;
}

/* Owner root or us, nobody else may write. */
static int trust_check(const char *path, const struct stat *st, const char *name,
                       struct claas_error *err)
{
    if (st->st_uid != 0 && st->st_uid != geteuid()) {
        return err_set(
            err, CLAAS_ERR_FORBIDDEN, "plugin",
            "cannot load plugin '%s': '%s' belongs to user %ld, expected root or user %ld", name,
            path, (long)st->st_uid, (long)geteuid());
    }
    if (st->st_mode & (S_IWGRP | S_IWOTH)) {
        return err_set(err, CLAAS_ERR_FORBIDDEN, "plugin",
                       "cannot load plugin '%s': '%s' can be written by %s (mode %04o)", name, path,
                       st->st_mode & S_IWOTH ? "everybody" : "its group",
                       (unsigned)(st->st_mode & 07777));
    }
    return 0;
}

static int trust_directory(const char *dir, const char *name, struct claas_error *err)
{
    struct stat st;
    if (stat(dir, &st) != 0) {
        return err_errno(err, errno, "plugin", "cannot load plugin '%s': '%s'", name, dir);
    }
    return trust_check(dir, &st, name, err);
}

/* The real file must be fit to be run, and the directory it really lies in. */
static int trust_file(const char *real, const char *name, struct claas_error *err)
{
    struct stat st;
    if (stat(real, &st) != 0) {
        return err_errno(err, errno, "plugin", "cannot load plugin '%s': '%s'", name, real);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(err, CLAAS_ERR_FORBIDDEN, "plugin",
                       "cannot load plugin '%s': '%s' is not a regular file", name, real);
    }
    int rc = trust_check(real, &st, name, err);
    if (rc != 0) {
        return rc;
    }
    char *dir = mem_dup(real, (size_t)(strrchr(real, '/') - real) + 1);
    rc = dir ? trust_directory(dir, name, err) : err_oom(err, "loading a plugin");
    free(dir);
    return rc;
}

/* The real path of NAME.so in dir. NOT_FOUND when it is not there. */
static int find_in(const char *dir, const char *name, char **out, struct claas_error *err)
{
    char file[80];
    struct stat st;
    (void)snprintf(file, sizeof file, "%s.so", name);
    char *path = path_join(dir, file);
    if (!path) {
        return err_oom(err, "loading a plugin");
    }
    int rc = 0;
    char *real = NULL;
    if (lstat(path, &st) != 0) {
        rc = err_errno(err, errno, "plugin", "cannot load plugin '%s': '%s'", name, path);
    } else {
        rc = trust_directory(dir, name, err);
    }
    if (rc == 0) {
        real = realpath(path, NULL);
        rc = real ? trust_file(real, name, err)
                  : err_errno(err, errno, "plugin", "cannot load plugin '%s': '%s'", name, path);
    }
    free(path);
    if (rc != 0) {
        free(real);
        return rc;
    }
    *out = real;
    return 0;
}

static int find(const char *search, const char *name, char **out, struct claas_error *err)
{
    const char *rest = search;
    char *dir = NULL;
    int rc = CLAAS_ERR_NOT_FOUND;
    while (rc == CLAAS_ERR_NOT_FOUND && (dir = search_next(&rest))) {
        rc = find_in(dir, name, out, err);
        free(dir);
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        return err_set(err, CLAAS_ERR_NOT_FOUND, "plugin",
                       "there is no plugin '%s': no file '%s.so' in '%.200s'", name, name, search);
    }
    return rc;
}

/* dlsym also looks into the libraries the module depends on: the door must be the module's own. */
static int door_is_own(void *door, const char *file)
{
    Dl_info info;
    struct stat ours;
    struct stat its;
    return dladdr(door, &info) != 0 && info.dli_fname && stat(file, &ours) == 0 &&
           stat(info.dli_fname, &its) == 0 && ours.st_dev == its.st_dev &&
           ours.st_ino == its.st_ino;
}

static int door_open(const char *file, const char *name, entry_fn *out, struct claas_error *err)
{
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin", "cannot load plugin '%s': %s", name,
                       why ? why : file);
    }
    void *door = dlsym(handle, "claas_plugin_entry");
    if (!door) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin",
                       "cannot load plugin '%s': '%s' has no function claas_plugin_entry", name,
                       file);
    }
    if (!door_is_own(door, file)) {
        return err_set(
            err, CLAAS_ERR_UNSUPPORTED, "plugin",
            "cannot load plugin '%s': claas_plugin_entry comes from a library that '%s' uses, not "
            "from itself",
            name, file);
    }
    /* ISO C knows no conversion from void * to a function: POSIX promises that the representation
     * is the same. */
    memcpy(out, &door, sizeof *out);
    return 0;
}

int host_file_load(const char *search, const char *name, const struct claas_plugin **out_plugin,
                   char **out_file, struct claas_error *err)
{
    char *file = NULL;
    entry_fn entry = NULL;
    int rc = find(search, name, &file, err);
    if (rc == 0) {
        rc = door_open(file, name, &entry, err);
    }
    if (rc != 0) {
        free(file);
        return rc;
    }
    const struct claas_plugin *plugin = entry(CLAAS_ABI);
    if (!plugin) {
        free(file);
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin",
                       "cannot load plugin '%s': it does not answer to the ABI of this host, %u.%u",
                       name, CLAAS_ABI_MAJOR, CLAAS_ABI_MINOR);
    }
    *out_plugin = plugin;
    *out_file = file;
    return 0;
}

/* ---- listing -------------------------------------------------------------------------------- */

struct names {
    char **names;
    size_t n;
    size_t cap;
};

static int names_add(struct names *list, const char *file)
{
    size_t n = strlen(file);
    if (n < 4 || strcmp(file + n - 3, ".so") != 0) {
        return 0;
    }
    char *name = mem_dup(file, n - 3);
    if (name && !host_name_ok(name)) {
        free(name);
        return 0;
    }
    if (!name ||
        mem_grow((void **)&list->names, &list->cap, list->n + 1, sizeof *list->names) != 0) {
        free(name);
        return -1;
    }
    list->names[list->n++] = name;
    return 0;
}

static int names_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A directory that is not there has no plugins. */
static int names_read(struct names *list, const char *dir)
{
    DIR *d = opendir(dir);
    int rc = 0;
    struct dirent *entry = NULL;
    while (d && rc == 0 && (entry = readdir(d))) {
        rc = names_add(list, entry->d_name);
    }
    if (d) {
        (void)closedir(d); /* nothing was written */
    }
    return rc;
}

int host_module_list(const struct host *host, void (*each)(void *ctx, const char *name), void *ctx,
                     struct claas_error *err)
{
    struct names list = { 0 };
    const char *rest = host->search;
    char *dir = NULL;
    int rc = 0;
    while (rc == 0 && (dir = search_next(&rest))) {
        rc = names_read(&list, dir);
        free(dir);
    }
    if (rc == 0 && list.n > 0) {
        qsort(list.names, list.n, sizeof *list.names, names_compare);
    }
    for (size_t i = 0; i < list.n; i++) {
        if (rc == 0 && (i == 0 || strcmp(list.names[i - 1], list.names[i]) != 0)) {
            each(ctx, list.names[i]);
        }
    }
    for (size_t i = 0; i < list.n; i++) {
        free(list.names[i]);
    }
    free(list.names);
    return rc == 0 ? 0 : err_oom(err, "listing plugins");
}
