/* SPDX-License-Identifier: MIT */
/* Export: a version's files as a zip that PEFT can read once unpacked. Built as a file, never in
 * memory. */
#include "config.h"

#include "internal.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

enum { DEFLATE_BELOW = 1 << 20 }; /* weights do not shrink; texts do */

static int zip_fail(zip_t *zip, const char *label, struct claas_error *err)
{
    int rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot export '%s': %s", label,
                     zip_strerror(zip));
    if (zip_error_code_system(zip_get_error(zip)) == ENOSPC) {
        rc = err_set(err, CLAAS_ERR_EXHAUSTED, NULL,
                     "cannot export '%s': no space left on the device", label);
    }
    return rc;
}

static int zip_put(zip_t *zip, struct adapter_version *v, const struct claas_file *f,
                   struct claas_error *err)
{
    const char *path = NULL;
    struct claas_error local = ERR_INIT;
    int rc = v->abi.path(&v->abi, f->name, &path, &local);
    if (rc == CLAAS_ERR_NOT_FOUND && !(f->roles & CLAAS_SERVE)) {
        return 0; /* pruned: the adapter answers without it */
    }
    if (rc) {
        if (err) {
            *err = local;
        }
        return rc;
    }
    zip_source_t *source = zip_source_file(zip, path, 0, -1);
    zip_int64_t index = source ? zip_file_add(zip, f->name, source, ZIP_FL_ENC_UTF_8) : -1;
    if (index < 0) {
        zip_source_free(source);
        return zip_fail(zip, v->label, err);
    }
    time_t when = v->entry ? (time_t)(v->entry->time_ns / 1000000000) : 0;
    if (zip_set_file_compression(zip, (zip_uint64_t)index,
                                 f->bytes < DEFLATE_BELOW ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0) ||
        (v->entry && zip_file_set_mtime(zip, (zip_uint64_t)index, when, 0))) {
        return zip_fail(zip, v->label, err);
    }
    return 0;
}

struct exporting {
    const struct claas_call *call;
};

static int export_cancelled(zip_t *zip, void *ctx)
{
    (void)zip;
    const struct exporting *e = ctx;
    return e->call && e->call->left_ms && e->call->left_ms(e->call) == 0;
}

static int zip_write(struct adapter_version *v, const char *path, const struct claas_call *call,
                     struct claas_error *err)
{
    int code = 0;
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_EXCL, &code);
    if (!zip) {
        zip_error_t why;
        zip_error_init_with_code(&why, code);
        int rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot export '%s': %s", v->label,
                         zip_error_strerror(&why));
        zip_error_fini(&why);
        return rc;
    }
    int rc = 0;
    struct exporting e = { call };
    for (uint32_t i = 0; rc == 0 && i < v->abi.n_files; i++) {
        rc = zip_put(zip, v, v->abi.files[i], err);
    }
    if (rc == 0 && zip_register_cancel_callback_with_state(zip, export_cancelled, NULL, &e)) {
        rc = zip_fail(zip, v->label, err);
    }
    if (rc == 0 && zip_close(zip) == 0) {
        return 0;
    }
    if (rc == 0) {
        rc = export_cancelled(zip, &e)
                 ? err_set(err, CLAAS_ERR_CANCELLED, NULL, "gave up exporting '%s'", v->label)
                 : zip_fail(zip, v->label, err);
    }
    zip_discard(zip);
    return rc;
}

int adapter_export(struct adapters *a, struct adapter_version *v, const struct claas_call *call,
                   int *out_fd, uint64_t *out_bytes, struct claas_error *err)
{
    char *path = work_path(a, "export");
    if (!path) {
        return err_oom(err, "exporting");
    }
    struct stat st;
    int fd = -1;
    int rc = zip_write(v, path, call, err);
    if (rc == 0) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st)) {
            rc = err_errno(err, errno, NULL, "cannot open the export of '%s'", v->label);
        }
    }
    (void)unlink(path); /* it lives on behind the descriptor; or it was not made */
    free(path);
    if (rc) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return rc;
    }
    *out_fd = fd;
    *out_bytes = (uint64_t)st.st_size;
    return 0;
}
