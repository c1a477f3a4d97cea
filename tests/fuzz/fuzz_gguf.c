/* SPDX-License-Identifier: MIT */
/* GGUF files: the container, then the model and the tokenizer it says it is. */
#include "config.h"

#include "fuzz.h"

#include "plugins/local/gguf.h"
#include "plugins/local/modelfile.h"

static volatile unsigned seen; /* so that the reads stay */

/* Every byte a reader may reach. */
static unsigned touch(const struct gguf *g)
{
    unsigned sum = 0;
    for (size_t i = 0; i < g->n_values; i++) {
        for (size_t j = 0; j < g->values[i].bytes; j++) {
            sum += g->values[i].data[j];
        }
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        for (size_t j = 0; j < g->tensors[i].bytes; j++) {
            sum += g->tensors[i].data[j];
        }
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    struct gguf *g = NULL;
    struct modelfile *m = NULL;
    char path[32];
    int fd = fuzz_file(data, n, path);
    int rc = gguf_open(path, &g, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        seen += touch(g);
        gguf_close(g);
        rc = modelfile_open(path, NULL, &m, &err);
        FUZZ_ERROR(rc, err);
        modelfile_close(m);
    }
    (void)close(fd);
    return 0;
}
