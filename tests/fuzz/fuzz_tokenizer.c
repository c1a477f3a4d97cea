/* SPDX-License-Identifier: MIT */
/* tokenizer.json; and with every tokenizer that can be made of one: text to ids and back. */
#include "config.h"

#include "fuzz.h"

#include "text/tokenizer.h"

#include <string.h>

static void use(const struct tokenizer *tok)
{
    static const char text[] = "Hello, w\xC3\xB6rld!  <|im_start|>user\n\xF0\x9F\x99\x82 123\t\xCC\x81";
    struct claas_error err = ERR_INIT;
    struct token_list ids = TOKEN_LIST_INIT;
    struct buf back = BUF_INIT;
    struct claas_digest digest;
    int rc = tokenizer_encode(tok, text, sizeof text - 1, CLAAS_SPECIAL | TOKENIZER_BOS, &ids, &err);
    FUZZ_ERROR(rc, err);
    for (size_t i = 0; i < ids.len; i++) {
        FUZZ_TRUE(ids.ids[i] >= 0 && (size_t)ids.ids[i] < tokenizer_vocab(tok));
    }
    rc = tokenizer_decode(tok, ids.ids, ids.len, CLAAS_SPECIAL, &back, &err);
    FUZZ_ERROR(rc, err);
    rc = tokenizer_identity(tok, &digest, &err);
    FUZZ_ERROR(rc, err);
    token_list_clear(&ids);
    buf_clear(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct tokenizer *tok = NULL;
    char path[32];
    int fd = fuzz_file(data, n, path);
    int rc = tokenizer_load_json(path, &tok, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        use(tok);
        tokenizer_free(tok);
    }
    (void)close(fd);
    return 0;
}
