/* SPDX-License-Identifier: MIT */
/* Log entries (manifests) as a broken or hostile store may give them. */
#include "config.h"

#include "fuzz.h"

#include "adapters/internal.h"

#include <string.h>

/* All that a reader of an entry uses, so that a sanitizer sees it. */
static size_t touch(const struct adapter_entry *e)
{
    size_t sum = strlen(e->id) + strlen(e->job) + strlen(e->engine) + strlen(e->format) + strlen(e->base) +
                 strlen(e->base_name) + strlen(e->settings_json) + strlen(e->metrics_json);
    for (uint32_t i = 0; i < e->n_files; i++) {
        struct claas_error err = ERR_INIT;
        FUZZ_TRUE(name_check_file(e->files[i]->name, &err) == 0 && e->files[i]->roles != 0);
        sum += e->files[i]->bytes != 0;
    }
    for (uint32_t i = 0; i < e->n_claims; i++) {
        sum += strlen(e->claims[i]);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct adapter_entry *e = NULL;
    for (uint64_t at = 1; at <= 2; at++) { /* the first has nothing before it */
        int rc = entry_decode("x/y", at, (const char *)data, n, &e, &err);
        FUZZ_ERROR(rc, err);
        if (rc == 0) {
            FUZZ_TRUE(strcmp(e->id, "x/y") == 0 && e->n == at && touch(e) > 0 && entry_bytes(e) > 0);
            adapter_entry_unref(e);
        } else {
            FUZZ_TRUE(strstr(err.message, "x~y") != NULL || rc != CLAAS_ERR_CORRUPT);
        }
    }
    return 0;
}
