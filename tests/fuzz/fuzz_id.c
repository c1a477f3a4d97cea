/* SPDX-License-Identifier: MIT */
/* Ids, names and keys: whatever is accepted cannot climb out of its place, and is found again under its key. */
#include "config.h"

#include "fuzz.h"

#include "adapters/internal.h"
#include "base/mem.h"

#include <string.h>

static void is_harmless(const char *id)
{
    FUZZ_TRUE(id[0] != '\0' && id[0] != '/' && id[0] != '.' && strlen(id) < ADAPTER_ID_CAP);
    FUZZ_TRUE(strstr(id, "/.") == NULL && strstr(id, "//") == NULL && strpbrk(id, "~\\ \n%") == NULL);
}

/* The key of an accepted id spells nobody else's. */
static void comes_back(const char *id)
{
    char key[KEY_CAP];
    char again[ADAPTER_ID_CAP];
    char file[420];
    const char *flat = key + strlen("adapters/");
    is_harmless(id);
    key_of(key, "adapters/", id, "");
    FUZZ_TRUE(strchr(flat, '/') == NULL);
    FUZZ_TRUE(key_unflat(flat, strlen(flat), again) == 0 && strcmp(again, id) == 0);
    key_log(key, id, 7);
    FUZZ_TRUE(strcmp(key + strlen(key) - 9, "/00000007") == 0);
    adapter_export_name(id, file, sizeof file);
    FUZZ_TRUE(strchr(file, '/') == NULL && strcmp(file + strlen(file) - 4, ".zip") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    char out[ADAPTER_ID_CAP];
    struct claas_digest digest;
    char *s = mem_dup(data, n);
    FUZZ_TRUE(s != NULL);
    int rc = adapter_id_check(s, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        comes_back(s);
    }
    rc = adapter_id_strip(s, out, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        comes_back(out);
    }
    if (key_unflat(s, strlen(s), out) == 0) {
        is_harmless(out);
    }
    rc = name_check_file(s, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        FUZZ_TRUE(s[0] != '/' && s[0] != '.' && strstr(s, "/.") == NULL);
    }
    if (key_blob_parse(s, &digest)) {
        char key[KEY_CAP];
        key_blob(key, &digest);
        FUZZ_TRUE(strcmp(key, s) == 0);
    }
    free(s);
    return 0;
}
