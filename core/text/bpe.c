/* SPDX-License-Identifier: MIT */
/* Merging one piece: the pair with the lowest rank first, the leftmost among equals. A heap over
 * linked symbols keeps it at n log n; an entry is stale when its symbol's present merge has another
 * rank. */
#include "config.h"

#include "text/tokenizer_internal.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>

#define NOWHERE UINT32_MAX /* no symbol there */

void bpe_clear(struct bpe *bpe)
{
    free(bpe->symbols);
    free(bpe->heap);
    *bpe = (struct bpe){ 0 };
}

static void heap_push(struct bpe *bpe, uint64_t entry)
{
    size_t at = bpe->heap_len++;
    while (at > 0 && bpe->heap[(at - 1) / 2] > entry) {
        bpe->heap[at] = bpe->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    bpe->heap[at] = entry;
}

static uint64_t heap_pop(struct bpe *bpe)
{
    uint64_t top = bpe->heap[0];
    uint64_t last = bpe->heap[--bpe->heap_len];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= bpe->heap_len) {
            break;
        }
        if (child + 1 < bpe->heap_len && bpe->heap[child + 1] < bpe->heap[child]) {
            child++;
        }
        if (bpe->heap[child] >= last) {
            break;
        }
        bpe->heap[at] = bpe->heap[child];
        at = child;
    }
    bpe->heap[at] = last;
    return top;
}

/* Looks up what symbol `at` and its next one merge to, and queues it. */
static void bpe_offer(struct bpe *bpe, const struct tokenizer *tok, uint32_t at)
{
    struct bpe_symbol *s = &bpe->symbols[at];
    const struct merge *m =
        s->next == NOWHERE ? NULL : tokenizer_merge_find(tok, s->id, bpe->symbols[s->next].id);
    s->rank = UINT32_MAX;
    if (m) {
        s->rank = m->rank;
        s->result = m->result;
        heap_push(bpe, (uint64_t)m->rank << 32 | at);
    }
}

/* Symbols of the bytes; those that the vocabulary lacks are left out. Returns how many. */
static uint32_t bpe_start(struct bpe *bpe, const struct tokenizer *tok, const char *piece, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = tok->of_byte[(unsigned char)piece[i]];
        if (id >= 0) {
            bpe->symbols[count] = (struct bpe_symbol){ id, -1, UINT32_MAX, count - 1, count + 1 };
            count++;
        }
    }
    if (count > 0) {
        bpe->symbols[0].previous = NOWHERE;
        bpe->symbols[count - 1].next = NOWHERE;
    }
    bpe->heap_len = 0;
    for (uint32_t i = 0; i < count; i++) {
        bpe_offer(bpe, tok, i);
    }
    return count;
}

static void bpe_merge_all(struct bpe *bpe, const struct tokenizer *tok)
{
    while (bpe->heap_len > 0) {
        uint64_t entry = heap_pop(bpe);
        uint32_t at = (uint32_t)entry;
        struct bpe_symbol *s = &bpe->symbols[at];
        if (s->rank != (uint32_t)(entry >> 32)) {
            continue;
        }
        struct bpe_symbol *gone = &bpe->symbols[s->next];
        s->id = s->result;
        s->next = gone->next;
        gone->rank = UINT32_MAX;
        if (s->next != NOWHERE) {
            bpe->symbols[s->next].previous = at;
        }
        bpe_offer(bpe, tok, at);
        if (s->previous != NOWHERE) {
            bpe_offer(bpe, tok, s->previous);
        }
    }
}

/* A merge adds at most two entries and takes one symbol away, so three for each byte are enough. */
static int bpe_reserve(struct bpe *bpe, size_t n, struct claas_error *err)
{
    if (n > INT32_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "text",
                       "cannot tokenise a piece of %zu bytes: too long", n);
    }
    if (mem_grow((void **)&bpe->symbols, &bpe->symbols_cap, n, sizeof *bpe->symbols) ||
        mem_grow((void **)&bpe->heap, &bpe->heap_cap, 3 * n, sizeof *bpe->heap)) {
        return err_oom(err, "tokenising");
    }
    return 0;
}

int bpe_encode(struct bpe *bpe, const struct tokenizer *tok, const char *piece, size_t n,
               struct token_list *out, struct claas_error *err)
{
    if (tok->ignore_merges) {
        int32_t id = tokenizer_lookup(tok, piece, n);
        if (id >= 0) {
            return token_list_add(out, id, err);
        }
    }
    int rc = bpe_reserve(bpe, n, err);
    if (rc) {
        return rc;
    }
    if (bpe_start(bpe, tok, piece, n) == 0) {
        return 0;
    }
    bpe_merge_all(bpe, tok);
    for (uint32_t at = 0; at != NOWHERE && !rc; at = bpe->symbols[at].next) {
        rc = token_list_add(out, bpe->symbols[at].id, err);
    }
    return rc;
}
