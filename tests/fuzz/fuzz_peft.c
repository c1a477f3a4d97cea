/* SPDX-License-Identifier: MIT */
/* adapter_config.json of PEFT, for a small model. */
#include "config.h"

#include "fuzz.h"

#include "plugins/local/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct model_geometry tiny = { .hidden = 6, .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 4,
                                                .intermediate = 8, .vocab = 11, .context = 32, .eps = 1e-5,
                                                .rope = { .kind = ROPE_PLAIN, .theta = 10000 } };
    struct claas_error err = ERR_INIT;
    struct lora_spec spec;
    char path[32];
    int fd = fuzz_file(data, n, path);
    int rc = peft_read_config(&tiny, path, &spec, &err);
    FUZZ_ERROR(rc, err);
    FUZZ_TRUE(rc != 0 || (spec.rank >= 1 && spec.rank <= 256 && spec.modules != 0));
    (void)close(fd);
    return 0;
}
