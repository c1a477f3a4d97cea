/* SPDX-License-Identifier: MIT */
/* safetensors files: header, metadata, and the numbers of every tensor. */
#include "config.h"

#include "fuzz.h"

#include "base/mem.h"
#include "plugins/local/safetensors.h"

static volatile unsigned seen; /* so that the reads stay */

static void touch(const struct safetensors *s, const struct safetensors_entry *e)
{
    struct claas_error err = ERR_INIT;
    for (uint64_t i = 0; i < e->bytes; i++) {
        seen += e->data[i];
    }
    float *values = mem_array(e->bytes + 1, sizeof *values); /* an element has a byte at least */
    FUZZ_TRUE(values != NULL && safetensors_find(s, e->name) == e);
    int rc = safetensors_floats(s, e, values, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        rc = safetensors_finite(s, e, values, &err);
        FUZZ_ERROR(rc, err);
    }
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct safetensors *s = NULL;
    char path[32];
    int fd = fuzz_file(data, n, path);
    int rc = safetensors_open(path, &s, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        for (size_t i = 0; i < s->n_entries; i++) {
            touch(s, &s->entries[i]);
        }
        (void)safetensors_metadata(s, "format");
        safetensors_close(s);
    }
    (void)close(fd);
    return 0;
}
