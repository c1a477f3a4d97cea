/* SPDX-License-Identifier: MIT */
/* What every token spells, asked of the plugin once: while it hands out a piece of an answer it may not be asked. */
#include "config.h"

#include "serving/internal.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>

struct spelling {
    size_t n;
    size_t *at;       /* [n + 1] where the text of each token begins, special ones spelled out */
    uint32_t *bytes;  /* [n] how much of the text of an answer each one is */
    struct buf text;
};

void spelling_free(struct spelling *p)
{
    if (p != NULL) {
        free(p->at);
        free(p->bytes);
        buf_clear(&p->text);
        free(p);
    }
}

/* Ids without a token behind them are no failure: they have no text. */
static int spell_all(struct host_instance *speller, struct spelling *p)
{
    struct claas_error ignored = ERR_INIT;
    struct buf plain = BUF_INIT;
    for (size_t i = 0; i < p->n; i++) {
        int32_t id = (int32_t)i;
        buf_cut(&plain, 0);
        (void)host_text_decode(speller, &id, 1, 0, &plain, &ignored);
        p->bytes[i] = (uint32_t)plain.len;
        (void)host_text_decode(speller, &id, 1, CLAAS_SPECIAL, &p->text, &ignored);
        p->at[i + 1] = p->text.len;
    }
    int failed = plain.failed || p->text.failed;
    buf_clear(&plain);
    return failed ? -1 : 0;
}

static struct spelling *spelling_make(struct serving *s)
{
    struct claas_model model = { .size = sizeof model };
    struct spelling *p = NULL;
    if (host_model(s->inference, &model, NULL) != 0 || model.vocab == 0) {
        return NULL;
    }
    p = calloc(1, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    p->n = model.vocab;
    p->at = mem_array(p->n + 1, sizeof *p->at);
    p->bytes = mem_array(p->n, sizeof *p->bytes);
    if (p->at == NULL || p->bytes == NULL || spell_all(s->text, p) != 0) {
        spelling_free(p);
        return NULL;
    }
    return p;
}

const struct spelling *spelling_of(struct serving *s)
{
    struct spelling *p = atomic_load(&s->spelling);
    if (p != NULL) {
        return p;
    }
    struct spelling *mine = spelling_make(s);
    if (mine != NULL && !atomic_compare_exchange_strong(&s->spelling, &p, mine)) {
        spelling_free(mine); /* another request was faster */
        mine = p;
    }
    return mine;
}

size_t spelling_bytes(const struct spelling *p, int32_t id)
{
    return id >= 0 && (size_t)id < p->n ? p->bytes[id] : 0;
}

int spelling_add(const struct spelling *p, int32_t id, struct buf *out)
{
    if (id < 0 || (size_t)id >= p->n) {
        return -1;
    }
    buf_add(out, buf_str(&p->text) + p->at[id], p->at[id + 1] - p->at[id]);
    return 0;
}
