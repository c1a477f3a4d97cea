/* SPDX-License-Identifier: MIT */
/* Making a tokenizer from its description, and asking it about single tokens. */
#include "config.h"

#include "text/tokenizer_internal.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1 << 24 };

int token_list_add(struct token_list *list, int32_t id, struct claas_error *err)
{
    if (mem_grow((void **)&list->ids, &list->cap, list->len + 1, sizeof *list->ids)) {
        return err_oom(err, "tokenising");
    }
    list->ids[list->len++] = id;
    return 0;
}

void token_list_clear(struct token_list *list)
{
    free(list->ids);
    *list = TOKEN_LIST_INIT;
}

/* The byte that a byte symbol stands for, or -1. */
static int symbol_byte(uint32_t c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) {
        return (int)c;
    }
    if (c < 256 || c > 323) {
        return -1;
    }
    c -= 256;
    return c <= 32 ? (int)c : c <= 66 ? (int)c - 33 + 127 : 173;
}

/* Raw bytes of a spelling in byte symbols into out[n]; how many, or -1 when it is not one. */
static int64_t symbols_to_bytes(const char *s, size_t n, char *out)
{
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = (unsigned char)s[i];
        size_t step = 1;
        if (c >= 0x80) {
            step = utf8_decode(s + i, n - i, &c);
        }
        int byte = step == 0 ? -1 : symbol_byte(c);
        if (byte < 0) {
            return -1;
        }
        out[len++] = (char)byte;
        i += step;
    }
    return (int64_t)len;
}

static uint32_t bytes_hash(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    }
    return h ^ h >> 15;
}

static size_t token_len(const struct tokenizer *tok, int32_t id)
{
    return tok->starts[id + 1] - tok->starts[id];
}

/* The slot that holds these bytes, or the free one where they belong. */
static int32_t *token_slot(const struct tokenizer *tok, const char *bytes, size_t n)
{
    size_t at = bytes_hash(bytes, n) & tok->slot_mask;
    while (tok->slots[at] >= 0 &&
           (token_len(tok, tok->slots[at]) != n ||
            memcmp(tok->bytes + tok->starts[tok->slots[at]], bytes, n) != 0)) {
        at = (at + 1) & tok->slot_mask;
    }
    return &tok->slots[at];
}

static int32_t token_of_bytes(const struct tokenizer *tok, const char *bytes, size_t n)
{
    return n == 0 ? -1 : *token_slot(tok, bytes, n);
}

int32_t tokenizer_lookup(const struct tokenizer *tok, const char *bytes, size_t n)
{
    int32_t id = token_of_bytes(tok, bytes, n);
    return id >= 0 && tok->types[id] != TOKEN_CONTROL ? id : -1;
}

static size_t merge_slot(const struct tokenizer *tok, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (key * 0x9E3779B97F4A7C15u >> 32) & tok->merge_mask;
    while (tok->merges[at].left >= 0 &&
           (tok->merges[at].left != left || tok->merges[at].right != right)) {
        at = (at + 1) & tok->merge_mask;
    }
    return at;
}

const struct merge *tokenizer_merge_find(const struct tokenizer *tok, int32_t left, int32_t right)
{
    const struct merge *m = &tok->merges[merge_slot(tok, left, right)];
    return m->left >= 0 ? m : NULL;
}

/* Smallest power of two that leaves a table of n entries half empty. */
static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size < 2 * n) {
        size *= 2;
    }
    return size;
}

static int spec_type(const struct tokenizer_spec *spec, size_t id)
{
    return !spec->tokens[id].s ? 0 : spec->types ? spec->types[id] : TOKEN_NORMAL;
}

static int spec_check(const struct tokenizer_spec *spec, struct claas_error *err)
{
    if (spec->n_tokens == 0 || spec->n_tokens > TOKENS_MAX || spec->n_merges > 4u * TOKENS_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "tokens",
                       "cannot make a tokenizer of %zu tokens and %zu merges: out of range",
                       spec->n_tokens, spec->n_merges);
    }
    size_t bytes = 0;
    for (size_t id = 0; id < spec->n_tokens; id++) {
        int type = spec_type(spec, id);
        if (type == TOKEN_BYTE) {
            return err_set(err, CLAAS_ERR_UNSUPPORTED, "token_type",
                           "cannot use token %zu: byte tokens belong to another kind of tokenizer",
                           id);
        }
        if (type < 0 || type > TOKEN_BYTE || (type == 0 && spec->tokens[id].s)) {
            return err_set(err, CLAAS_ERR_INVALID, "token_type",
                           "token %zu has the unknown type %d", id, type);
        }
        size_t n = type ? spec->tokens[id].n : 0;
        if (n > UINT32_MAX - bytes) {
            return err_set(err, CLAAS_ERR_INVALID, "tokens", "the vocabulary is larger than 4 GiB");
        }
        if (!utf8_valid(spec->tokens[id].s, n)) {
            return err_set(err, CLAAS_ERR_INVALID, "tokens", "token %zu is not valid UTF-8", id);
        }
        bytes += n;
    }
    return 0;
}

static int tokenizer_alloc(struct tokenizer *tok, const struct tokenizer_spec *spec,
                           struct claas_error *err)
{
    size_t bytes = 1;
    for (size_t id = 0; id < spec->n_tokens; id++) {
        bytes += spec->tokens[id].s ? spec->tokens[id].n : 0;
    }
    size_t slots = table_size(spec->n_tokens);
    size_t merges = table_size(spec->n_merges);
    tok->n_tokens = spec->n_tokens;
    tok->n_merges = spec->n_merges;
    tok->bytes = malloc(bytes);
    tok->starts = mem_array(spec->n_tokens + 1, sizeof *tok->starts);
    tok->types = mem_array(spec->n_tokens, sizeof *tok->types);
    tok->slots = mem_array(slots, sizeof *tok->slots);
    tok->merges = mem_array(merges, sizeof *tok->merges);
    if (!tok->bytes || !tok->starts || !tok->types || !tok->slots || !tok->merges) {
        return err_oom(err, "making the tokenizer");
    }
    tok->slot_mask = slots - 1;
    tok->merge_mask = merges - 1;
    memset(tok->slots, 0xFF, slots * sizeof *tok->slots);
    for (size_t i = 0; i < merges; i++) {
        tok->merges[i].left = -1;
    }
    return 0;
}

/* Raw bytes and types of all tokens. A normal token that is not spelled in byte symbols can never
 * be made by merging: it keeps its spelling, for decoding, and counts as unused. */
static void tokenizer_add_bytes(struct tokenizer *tok, const struct tokenizer_spec *spec)
{
    uint32_t at = 0;
    for (size_t id = 0; id < spec->n_tokens; id++) {
        const struct token_text *text = &spec->tokens[id];
        int type = spec_type(spec, id);
        int64_t n = type == TOKEN_NORMAL ? symbols_to_bytes(text->s, text->n, tok->bytes + at) : -1;
        if (n < 0 && type != 0 && type != TOKEN_UNUSED) {
            memcpy(tok->bytes + at, text->s, text->n);
            n = (int64_t)text->n;
            type = type == TOKEN_NORMAL ? TOKEN_UNUSED : type;
        }
        tok->types[id] = (uint8_t)type;
        at += n > 0 ? (uint32_t)n : 0;
        tok->starts[id + 1] = at;
    }
}

/* Fills the table of spellings: normal tokens first, the others where the place is free. */
static void tokenizer_add_slots(struct tokenizer *tok)
{
    for (int normal = 1; normal >= 0; normal--) {
        for (size_t id = 0; id < tok->n_tokens; id++) {
            size_t n = token_len(tok, (int32_t)id);
            if (n == 0 || tok->types[id] == TOKEN_UNUSED ||
                (tok->types[id] == TOKEN_NORMAL) != normal) {
                continue;
            }
            int32_t *slot = token_slot(tok, tok->bytes + tok->starts[id], n);
            if (*slot < 0) {
                *slot = (int32_t)id;
            }
        }
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        int32_t id = tokenizer_lookup(tok, &byte, 1);
        tok->of_byte[b] = id >= 0 ? id : tok->unk;
    }
}

static int tokenizer_add_merge(struct tokenizer *tok, const struct token_text *text, uint32_t rank,
                               char *raw, struct claas_error *err)
{
    const char *space = memchr(text->s, ' ', text->n);
    int64_t a = -1;
    int64_t b = -1;
    if (space) {
        a = symbols_to_bytes(text->s, (size_t)(space - text->s), raw);
    }
    if (a > 0) {
        b = symbols_to_bytes(space + 1, text->n - (size_t)(space - text->s) - 1, raw + a);
    }
    int32_t left = a > 0 ? token_of_bytes(tok, raw, (size_t)a) : -1;
    int32_t right = b > 0 ? token_of_bytes(tok, raw + a, (size_t)b) : -1;
    int32_t result = left >= 0 && right >= 0 ? token_of_bytes(tok, raw, (size_t)(a + b)) : -1;
    if (result < 0) {
        int shown = text->n > 60 || !utf8_valid(text->s, text->n) ? 0 : (int)text->n;
        return err_set(err, CLAAS_ERR_INVALID, "merges",
                       "merge %u '%.*s' is not of two tokens that make a third", rank, shown,
                       text->s);
    }
    tok->merges[merge_slot(tok, left, right)] = (struct merge){ left, right, rank, result };
    return 0;
}

static int tokenizer_add_merges(struct tokenizer *tok, const struct tokenizer_spec *spec,
                                struct claas_error *err)
{
    size_t longest = 0;
    for (size_t i = 0; i < spec->n_merges; i++) {
        longest = spec->merges[i].n > longest ? spec->merges[i].n : longest;
    }
    char *raw = malloc(longest + 1);
    if (!raw) {
        return err_oom(err, "making the tokenizer");
    }
    int rc = 0;
    for (size_t i = 0; i < spec->n_merges && !rc; i++) {
        rc = tokenizer_add_merge(tok, &spec->merges[i], (uint32_t)i, raw, err);
    }
    free(raw);
    return rc;
}

/* Added tokens into the two sets that are searched in text. */
static int tokenizer_add_added(struct tokenizer *tok, const struct tokenizer_spec *spec,
                               struct claas_error *err)
{
    size_t n = 0;
    size_t bytes = 0;
    for (size_t id = 0; id < tok->n_tokens; id++) {
        if (tok->types[id] == TOKEN_CONTROL || tok->types[id] == TOKEN_USER) {
            n++;
        }
    }
    tok->raw.items = mem_array(n, sizeof *tok->raw.items);
    tok->normalized.items = mem_array(n, sizeof *tok->normalized.items);
    struct buf spellings = BUF_INIT;
    if (!tok->raw.items || !tok->normalized.items) {
        return err_oom(err, "making the tokenizer");
    }
    for (size_t id = 0; id < tok->n_tokens; id++) {
        struct added a = { tok->bytes + tok->starts[id], token_len(tok, (int32_t)id), (int32_t)id,
                           spec->added_flags ? spec->added_flags[id] : 0,
                           tok->types[id] == TOKEN_CONTROL };
        if ((!a.control && tok->types[id] != TOKEN_USER) || a.n == 0) {
            continue;
        }
        if (!(a.flags & TOKEN_NORMALIZED)) {
            tok->raw.items[tok->raw.n++] = a;
            continue;
        }
        char *owned = NULL;
        int rc = tok->nfc ? text_nfc(a.s, a.n, &a.s, &a.n, &owned, err) : 0;
        if (rc) {
            buf_clear(&spellings);
            return rc;
        }
        buf_add(&spellings, a.s, a.n);
        free(owned);
        tok->normalized.items[tok->normalized.n++] = a;
    }
    /* The spellings lie one behind the other in a buffer that has stopped moving. */
    tok->normal_bytes = buf_take(&spellings);
    if (!tok->normal_bytes) {
        return err_oom(err, "making the tokenizer");
    }
    for (size_t i = 0; i < tok->normalized.n; i++) {
        tok->normalized.items[i].s = tok->normal_bytes + bytes;
        bytes += tok->normalized.items[i].n;
    }
    int rc = added_set_init(&tok->raw, err);
    return rc ? rc : added_set_init(&tok->normalized, err);
}

static int id_check(const struct tokenizer *tok, int32_t id, const char *which,
                    struct claas_error *err)
{
    if (id < -1 || (id >= 0 && ((size_t)id >= tok->n_tokens || tok->types[id] == 0))) {
        return err_set(err, CLAAS_ERR_INVALID, which,
                       "the %s token %d is not in the vocabulary of %zu", which, id, tok->n_tokens);
    }
    return 0;
}

int tokenizer_set_ends(struct tokenizer *tok, int32_t bos, int32_t eos, struct claas_error *err)
{
    int rc = id_check(tok, bos, "bos", err);
    rc = rc ? rc : id_check(tok, eos, "eos", err);
    if (!rc) {
        tok->bos = bos;
        tok->eos = eos;
    }
    return rc;
}

static int tokenizer_fill(struct tokenizer *tok, const struct tokenizer_spec *spec,
                          struct claas_error *err)
{
    int rc = tokenizer_alloc(tok, spec, err);
    if (rc) {
        return rc;
    }
    tokenizer_add_bytes(tok, spec);
    rc = tokenizer_set_ends(tok, spec->bos, spec->eos, err);
    rc = rc ? rc : id_check(tok, spec->unk, "unk", err);
    if (rc) {
        return rc;
    }
    tok->unk = spec->unk;
    tokenizer_add_slots(tok);
    rc = tokenizer_add_merges(tok, spec, err);
    return rc ? rc : tokenizer_add_added(tok, spec, err);
}

int tokenizer_new(const struct tokenizer_spec *spec, struct tokenizer **out,
                  struct claas_error *err)
{
    const struct pretoken_rule *rule = NULL;
    if (!spec->pre || !spec->pre[0]) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "pre",
                       "cannot tokenise: the vocabulary names no pre-tokenizer");
    }
    int rc = pretoken_rule_find(spec->pre, &rule, err);
    rc = rc ? rc : spec_check(spec, err);
    if (rc) {
        return rc;
    }
    struct tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok) {
        return err_oom(err, "making the tokenizer");
    }
    tok->kind = rule->kind;
    tok->ignore_merges = spec->ignore_merges < 0 ? rule->ignore_merges : spec->ignore_merges != 0;
    tok->add_bos = spec->add_bos < 0 ? rule->add_bos : spec->add_bos != 0;
    tok->nfc = spec->nfc < 0 ? rule->nfc : spec->nfc != 0;
    rc = tokenizer_fill(tok, spec, err);
    if (rc) {
        tokenizer_free(tok);
        return rc;
    }
    *out = tok;
    return 0;
}

void tokenizer_free(struct tokenizer *tok)
{
    if (!tok) {
        return;
    }
    free(tok->bytes);
    free(tok->starts);
    free(tok->types);
    free(tok->slots);
    free(tok->merges);
    free(tok->normal_bytes);
    added_set_clear(&tok->raw);
    added_set_clear(&tok->normalized);
    free(tok);
}

size_t tokenizer_vocab(const struct tokenizer *tok)
{
    return tok->n_tokens;
}

int tokenizer_piece(const struct tokenizer *tok, int32_t id, const char **bytes, size_t *n)
{
    if (id < 0 || (size_t)id >= tok->n_tokens) {
        return -1;
    }
    *bytes = tok->bytes + tok->starts[id];
    *n = token_len(tok, id);
    return 0;
}

int tokenizer_type(const struct tokenizer *tok, int32_t id)
{
    return id < 0 || (size_t)id >= tok->n_tokens ? 0 : tok->types[id];
}

int32_t tokenizer_find(const struct tokenizer *tok, const char *bytes, size_t n)
{
    for (size_t i = 0; i < tok->raw.n + tok->normalized.n; i++) {
        const struct added *a =
            i < tok->raw.n ? &tok->raw.items[i] : &tok->normalized.items[i - tok->raw.n];
        if (token_len(tok, a->id) == n && memcmp(tok->bytes + tok->starts[a->id], bytes, n) == 0) {
            return a->id;
        }
    }
    return token_of_bytes(tok, bytes, n);
}

int32_t tokenizer_bos(const struct tokenizer *tok)
{
    return tok->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tok)
{
    return tok->eos;
}

int tokenizer_adds_bos(const struct tokenizer *tok)
{
    return tok->add_bos && tok->bos >= 0;
}

static int merge_by_rank(const void *a, const void *b)
{
    uint32_t x = ((const struct merge *)a)->rank;
    uint32_t y = ((const struct merge *)b)->rank;
    return (x > y) - (x < y);
}

static void identity_add_u32(struct sha256 *s, uint32_t v)
{
    const unsigned char le[4] = { v & 0xFF, v >> 8 & 0xFF, v >> 16 & 0xFF, v >> 24 };
    sha256_add(s, le, sizeof le);
}

/* Control and user tokens count alike: which of them a file calls special differs between formats.
 */
static void identity_add_tokens(struct sha256 *s, const struct tokenizer *tok)
{
    for (size_t id = 0; id < tok->n_tokens; id++) {
        int type = tok->types[id];
        uint32_t kind = type == 0 || type == TOKEN_UNUSED ? 0 : type == TOKEN_NORMAL ? 1 : 2;
        identity_add_u32(s, kind << 24 | (uint32_t)(token_len(tok, (int32_t)id) & 0xFFFFFF));
    }
    sha256_add(s, tok->bytes, tok->starts[tok->n_tokens]);
}

int tokenizer_identity(const struct tokenizer *tok, struct claas_digest *out,
                       struct claas_error *err)
{
    struct merge *sorted = mem_array(tok->n_merges, sizeof *sorted);
    struct sha256 *s = sha256_new();
    if (!sorted || !s) {
        free(sorted);
        sha256_free(s);
        return err_oom(err, "hashing the vocabulary");
    }
    size_t n = 0;
    for (size_t i = 0; i <= tok->merge_mask; i++) {
        if (tok->merges[i].left >= 0) {
            sorted[n++] = tok->merges[i];
        }
    }
    qsort(sorted, n, sizeof *sorted, merge_by_rank);
    identity_add_u32(s, tok->kind);
    identity_add_u32(s, (uint32_t)(tok->ignore_merges | tok->nfc << 1));
    identity_add_u32(s, (uint32_t)tok->unk);
    identity_add_u32(s, (uint32_t)tok->n_tokens);
    identity_add_tokens(s, tok);
    for (size_t i = 0; i < n; i++) {
        identity_add_u32(s, (uint32_t)sorted[i].left);
        identity_add_u32(s, (uint32_t)sorted[i].right);
    }
    free(sorted);
    return sha256_end(s, out, err);
}
