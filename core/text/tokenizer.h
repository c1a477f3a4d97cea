/* SPDX-License-Identifier: MIT */
/* Byte-level BPE tokenizers: made from a neutral description (a GGUF reader fills one) or from a
 * Hugging Face tokenizer.json; text to ids, ids to text, and a stream decoder that never shows half
 * a character. A finished tokenizer never changes: any number of threads may use it at once. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/sha256.h"

#include <claas/error.h>
#include <claas/text.h>

#include <stddef.h>
#include <stdint.h>

/* The kinds of tokens; the numbers are those of GGUF's tokenizer.ggml.token_type. */
enum token_type {
    TOKEN_NORMAL = 1,  /* spelled in byte symbols, made by merging */
    TOKEN_UNKNOWN = 2, /* stands for what the vocabulary lacks */
    TOKEN_CONTROL = 3, /* spelled raw, found in text only on request, hidden by decoding */
    TOKEN_USER = 4,    /* spelled raw, always found in text, shown by decoding */
    TOKEN_UNUSED = 5,  /* padding of the vocabulary: never made, decodes as nothing */
    TOKEN_BYTE = 6     /* not part of byte-level vocabularies: refused */
};

/* How an added (control or user) token meets the text around it: tokenizer.json's flags. */
enum {
    TOKEN_NORMALIZED = 1,  /* searched in the normalised text, not in the raw one */
    TOKEN_LSTRIP = 2,      /* takes the white space before it along */
    TOKEN_RSTRIP = 4,      /* takes the white space behind it along */
    TOKEN_SINGLE_WORD = 8  /* only where no word character touches it */
};

/* A string that need not end in a zero: it may lie in a mapped file. */
struct token_text {
    const char *s; /* null: no token has this id */
    size_t n;
};

/* What a tokenizer is made from. Everything is borrowed for the call to tokenizer_new only. */
struct tokenizer_spec {
    size_t n_tokens;
    /* By id; TOKEN_NORMAL in byte symbols ("Ġthe"), the others raw (" <x>"). */
    const struct token_text *tokens;
    const int32_t *types;       /* by id, enum token_type; null: all normal */
    const uint8_t *added_flags; /* by id, TOKEN_LSTRIP and so on; null: none */
    size_t n_merges;
    const struct token_text *merges; /* "a b" in byte symbols, best first */
    const char *pre; /* "smollm", "gpt-2", "llama-bpe", "qwen2" or another name of one of these */
    int ignore_merges; /* 1, 0, or -1: as is usual for `pre`; so are the next two */
    int add_bos;
    int nfc;
    int32_t bos; /* -1: none, as for the next two */
    int32_t eos;
    /* What a byte missing from the vocabulary becomes; -1: nothing. Not GGUF's unknown_token_id:
     * byte-level models leave such bytes out. */
    int32_t unk;
};

struct tokenizer;

/* Makes a tokenizer. UNSUPPORTED: unknown `pre` (the message names it) or a vocabulary that is not
 * byte-level. INVALID: ids out of range, a merge whose parts or result are no tokens, a spelling
 * that is not UTF-8. A normal token that is not spelled in byte symbols is kept for decoding, but
 * text never becomes it. */
int tokenizer_new(const struct tokenizer_spec *spec, struct tokenizer **out,
                  struct claas_error *err);

/* Reads a Hugging Face tokenizer.json: BPE, byte-level; both spellings of merges, added tokens with
 * their flags, the pre-tokenizer chain, normalizer null or NFC. bos and eos are not in that file:
 * set them afterwards with tokenizer_set_ends. Anything the file asks for that we cannot do is
 * refused as UNSUPPORTED, by name. */
int tokenizer_load_json(const char *path, struct tokenizer **out, struct claas_error *err);

/* The ends, where another file (tokenizer_config.json, config.json) knows them; only before it is
 * shared. -1: none. INVALID when an id is not in the vocabulary. */
int tokenizer_set_ends(struct tokenizer *tok, int32_t bos, int32_t eos, struct claas_error *err);

/* Null is fine. */
void tokenizer_free(struct tokenizer *tok);

/* A growable list of ids; start from TOKEN_LIST_INIT. */
struct token_list {
    int32_t *ids;
    size_t len;
    size_t cap;
};
#define TOKEN_LIST_INIT ((struct token_list){ 0 })
int token_list_add(struct token_list *list, int32_t id, struct claas_error *err);
void token_list_clear(struct token_list *list);

/* Flag of tokenizer_encode beside CLAAS_SPECIAL: put the first token in front when the tokenizer
 * adds one by itself. */
enum { TOKENIZER_BOS = 1 << 16 };

/* Appends the ids of n bytes of UTF-8 (INVALID otherwise; on any error `out` is as it was). With
 * CLAAS_SPECIAL control tokens spelled in the text become that one id; without it they are text
 * like any other. User tokens are always found. A megabyte of one letter takes about as long as a
 * megabyte of prose. */
int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t n, unsigned flags,
                     struct token_list *out, struct claas_error *err);

/* Appends the text of the ids: control tokens spelled out with CLAAS_SPECIAL, else left out;
 * invalid UTF-8 replaced by U+FFFD, one for each maximal part of a character. INVALID when an id is
 * not in the vocabulary. */
int tokenizer_decode(const struct tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                     struct buf *out, struct claas_error *err);

/* Decoding token by token. Start from all zeros; what was handed out so far plus
 * tokenizer_stream_end's rest is exactly tokenizer_decode's text of all ids. */
struct tokenizer_stream {
    char held[4]; /* the beginning of a character */
    size_t n_held;
};
int tokenizer_stream_add(struct tokenizer_stream *stream, const struct tokenizer *tok, int32_t id,
                         unsigned flags, struct buf *out, struct claas_error *err);
/* Appends what is still held back, as U+FFFD, and resets the stream. */
int tokenizer_stream_end(struct tokenizer_stream *stream, struct buf *out, struct claas_error *err);

/* Number of ids, from 0; holes count. */
size_t tokenizer_vocab(const struct tokenizer *tok);
/* The raw bytes behind an id (not always valid UTF-8; borrowed, lives as long as the tokenizer);
 * for a control token its spelling; none for a hole or unused id. 0, or -1 when the id is out of
 * range. */
int tokenizer_piece(const struct tokenizer *tok, int32_t id, const char **bytes, size_t *n);
/* enum token_type, or 0 for a hole or an id out of range. */
int tokenizer_type(const struct tokenizer *tok, int32_t id);
/* The token with exactly these raw bytes, control and user tokens first; -1: none. */
int32_t tokenizer_find(const struct tokenizer *tok, const char *bytes, size_t n);
/* -1: none. */
int32_t tokenizer_bos(const struct tokenizer *tok);
int32_t tokenizer_eos(const struct tokenizer *tok);
int tokenizer_adds_bos(const struct tokenizer *tok);

/* Digest over everything that ids depend on (tokens, merges, rules): equal for a model's GGUF and
 * its tokenizer.json when they tokenise alike. For claas_model.tokenizer. Hashes the whole
 * vocabulary: call it once and keep it. */
int tokenizer_identity(const struct tokenizer *tok, struct claas_digest *out,
                       struct claas_error *err);

#endif
