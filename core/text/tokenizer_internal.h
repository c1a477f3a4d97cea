/* SPDX-License-Identifier: MIT */
/* The inside of a tokenizer, shared by the files that make it, encode with it and decode with it.
 */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H

#include "text/pretoken.h"
#include "text/tokenizer.h"

/* One merge in the table of pairs; left is -1 where the slot is free. */
struct merge {
    int32_t left;
    int32_t right;
    uint32_t rank;
    int32_t result;
};

/* An added token that is searched in text. */
struct added {
    const char *s;
    size_t n;
    int32_t id;
    unsigned flags; /* TOKEN_LSTRIP and so on */
    int control;
};

/* Added tokens in byte order, so that a walk narrows a range byte by byte. */
struct added_set {
    struct added *items;
    size_t n;
    size_t first[257]; /* items that begin with byte b: first[b] to first[b + 1] */
};

struct tokenizer {
    size_t n_tokens;
    char *bytes;         /* raw bytes of all tokens, one behind the other */
    uint32_t *starts;    /* n_tokens + 1 offsets into bytes */
    uint8_t *types;      /* enum token_type, 0 for a hole */
    int32_t *slots;      /* hash table from raw bytes to id, -1 where free */
    size_t slot_mask;
    struct merge *merges;
    size_t merge_mask;
    size_t n_merges;
    int32_t of_byte[256]; /* the token of a single byte; unk, or -1 where the vocabulary has none */
    struct added_set raw;        /* searched in the raw text */
    struct added_set normalized; /* searched behind the normaliser */
    char *normal_bytes;          /* owns the spellings of `normalized` */
    enum pretoken_kind kind;
    int ignore_merges;
    int add_bos;
    int nfc;
    int32_t bos;
    int32_t eos;
    int32_t unk;
};

/* The token with these bytes in the vocabulary that merging works on, or -1. */
int32_t tokenizer_lookup(const struct tokenizer *tok, const char *bytes, size_t n);

/* The merge of a pair, or null. */
const struct merge *tokenizer_merge_find(const struct tokenizer *tok, int32_t left, int32_t right);

/* Working memory of merging, kept from piece to piece within one call; start from zeros. */
struct bpe_symbol {
    int32_t id;
    int32_t result;   /* what this and the next symbol merge to */
    uint32_t rank;    /* of that merge; UINT32_MAX: none, or this symbol is gone */
    uint32_t previous;
    uint32_t next;
};
struct bpe {
    struct bpe_symbol *symbols;
    size_t symbols_cap;
    uint64_t *heap; /* rank << 32 | position of the left symbol, smallest first */
    size_t heap_cap;
    size_t heap_len;
};
void bpe_clear(struct bpe *bpe);

/* Appends the ids of one piece. */
int bpe_encode(struct bpe *bpe, const struct tokenizer *tok, const char *piece, size_t n,
               struct token_list *out, struct claas_error *err);

/* Sorts and indexes the items; the spellings are borrowed. */
int added_set_init(struct added_set *set, struct claas_error *err);
void added_set_clear(struct added_set *set);

/* NFC of valid UTF-8. *out is s itself when nothing changes, else *owned, to be freed by the
 * caller. */
int text_nfc(const char *s, size_t n, const char **out, size_t *out_n, char **owned,
             struct claas_error *err);

#endif
