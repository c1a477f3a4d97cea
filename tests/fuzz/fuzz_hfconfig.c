/* SPDX-License-Identifier: MIT */
/* config.json of a Hugging Face directory: geometry, ends. */
#include "config.h"

#include "fuzz.h"

#include "base/file.h"
#include "plugins/local/hfconfig.h"

#include <string.h>

static char dir[] = "/tmp/claas-fuzz-XXXXXX";
static char *path;

static void clean(void)
{
    struct claas_error err = ERR_INIT;
    (void)dir_remove(dir, &err); /* what is left is an empty directory at most */
    free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct hfconfig c;
    if (!path) {
        FUZZ_TRUE(mkdtemp(dir) != NULL && (path = path_join(dir, "config.json")) != NULL && atexit(clean) == 0);
    }
    (void)unlink(path); /* some file systems write a truncated file out at once; the first time there is none */
    FILE *f = fopen(path, "w");
    FUZZ_TRUE(f != NULL && fwrite(data, 1, n, f) == n && fclose(f) == 0);
    int rc = hfconfig_read(dir, &c, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        FUZZ_TRUE(model_geometry_check(&c.geometry, &err) == 0 && c.n_eos <= HFCONFIG_ENDS_MAX);
        hfconfig_clear(&c);
    }
    return 0;
}
