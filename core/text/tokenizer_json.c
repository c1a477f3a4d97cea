/* SPDX-License-Identifier: MIT */
/* Reading a Hugging Face tokenizer.json into the description that tokenizer_new takes. Truncation
 * and padding settings are left aside: they belong to batches, and who encodes a prompt wants all
 * of it. */
#include "config.h"

#include "text/tokenizer.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/pretoken.h"

#include <stdlib.h>
#include <string.h>

enum { JSON_FILE_MAX = 256 << 20, JSON_TOKENS_MAX = 1 << 24 };

/* What is gathered from the file; texts are borrowed from the parsed JSON and from `pairs`. */
struct json_reader {
    const char *path;
    const cJSON *root;
    const cJSON *model;
    struct tokenizer_spec spec;
    struct token_text *tokens;
    int32_t *types;
    uint8_t *flags;
    struct token_text *merges;
    struct buf pairs; /* merges that the file spells as two strings */
    struct claas_error *err;
};

static int reader_refuse(struct json_reader *r, const char *what, const char *value)
{
    return err_set(r->err, CLAAS_ERR_UNSUPPORTED, what,
                   "cannot use tokenizer '%s': %s '%.100s' is not supported", r->path, what, value);
}

static int reader_invalid(struct json_reader *r, const char *what)
{
    return err_set(r->err, CLAAS_ERR_INVALID, what,
                   "cannot use tokenizer '%s': '%s' is not of the expected form", r->path, what);
}

static int is_type(const cJSON *object, const char *type)
{
    const cJSON *t = json_get(object, "type");
    return cJSON_IsString(t) && strcmp(t->valuestring, type) == 0;
}

static const char *type_of(const cJSON *object)
{
    const cJSON *t = json_get(object, "type");
    return cJSON_IsString(t) ? t->valuestring : "(none)";
}

static int is_true(const cJSON *object, const char *name)
{
    return cJSON_IsTrue(json_get(object, name));
}

/* A whole number from 0 that can be an id, or -1. */
static int32_t id_of(const cJSON *value)
{
    double v = cJSON_IsNumber(value) ? value->valuedouble : -1;
    return v >= 0 && v < JSON_TOKENS_MAX && v == (double)(int32_t)v ? (int32_t)v : -1;
}

/* Settings of the model that change what merging does. */
static int reader_check_model(struct json_reader *r)
{
    static const char *const must_be_empty[] = { "dropout", "continuing_subword_prefix",
                                                 "end_of_word_suffix" };
    const cJSON *model = r->model;
    if (json_get(model, "type") && !is_type(model, "BPE")) {
        return reader_refuse(r, "model", type_of(model));
    }
    if (!cJSON_IsObject(json_get(model, "vocab")) || !cJSON_IsArray(json_get(model, "merges"))) {
        return reader_invalid(r, "model");
    }
    for (size_t i = 0; i < sizeof must_be_empty / sizeof *must_be_empty; i++) {
        const cJSON *it = json_get(model, must_be_empty[i]);
        if (it && !(cJSON_IsString(it) && it->valuestring[0] == '\0') &&
            !(cJSON_IsNumber(it) && it->valuedouble == 0)) {
            return reader_refuse(r, "model", must_be_empty[i]);
        }
    }
    if (is_true(model, "byte_fallback")) {
        return reader_refuse(r, "model", "byte_fallback");
    }
    if (is_true(model, "fuse_unk") && json_get(model, "unk_token")) {
        return reader_refuse(r, "model", "fuse_unk");
    }
    r->spec.ignore_merges = is_true(model, "ignore_merges");
    return 0;
}

/* How many ids there are: one more than the largest. */
static int reader_count(struct json_reader *r)
{
    const cJSON *added = json_get(r->root, "added_tokens");
    int32_t largest = -1;
    const cJSON *it;
    cJSON_ArrayForEach(it, json_get(r->model, "vocab"))
    {
        int32_t id = id_of(it);
        if (id < 0) {
            return reader_invalid(r, "vocab");
        }
        largest = id > largest ? id : largest;
    }
    cJSON_ArrayForEach(it, added)
    {
        int32_t id = id_of(json_get(it, "id"));
        if (id < 0 || !cJSON_IsString(json_get(it, "content"))) {
            return reader_invalid(r, "added_tokens");
        }
        largest = id > largest ? id : largest;
    }
    r->spec.n_tokens = (size_t)(largest + 1);
    r->tokens = mem_array(r->spec.n_tokens, sizeof *r->tokens);
    r->types = mem_array(r->spec.n_tokens, sizeof *r->types);
    r->flags = mem_array(r->spec.n_tokens, sizeof *r->flags);
    return r->tokens && r->types && r->flags ? 0 : err_oom(r->err, "reading a tokenizer");
}

static int reader_tokens(struct json_reader *r)
{
    static const struct {
        const char *name;
        uint8_t flag;
    } flags[] = {
        { "normalized", TOKEN_NORMALIZED },
        { "lstrip", TOKEN_LSTRIP },
        { "rstrip", TOKEN_RSTRIP },
        { "single_word", TOKEN_SINGLE_WORD },
    };
    const cJSON *it;
    cJSON_ArrayForEach(it, json_get(r->model, "vocab"))
    {
        struct token_text *token = &r->tokens[id_of(it)];
        if (token->s) {
            return reader_invalid(r, "vocab");
        }
        *token = (struct token_text){ it->string, strlen(it->string) };
        r->types[id_of(it)] = TOKEN_NORMAL;
    }
    cJSON_ArrayForEach(it, json_get(r->root, "added_tokens"))
    {
        int32_t id = id_of(json_get(it, "id"));
        const char *content = json_get(it, "content")->valuestring;
        if (r->types[id] > TOKEN_NORMAL) {
            return reader_invalid(r, "added_tokens");
        }
        r->tokens[id] = (struct token_text){ content, strlen(content) };
        r->types[id] = is_true(it, "special") ? TOKEN_CONTROL : TOKEN_USER;
        for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
            r->flags[id] |= is_true(it, flags[i].name) ? flags[i].flag : 0;
        }
    }
    return 0;
}

/* The id of a token by its spelling in the file; -1: none. */
static int32_t reader_find(const struct json_reader *r, const char *text)
{
    for (size_t id = 0; id < r->spec.n_tokens; id++) {
        if (r->tokens[id].s && strcmp(r->tokens[id].s, text) == 0) {
            return (int32_t)id;
        }
    }
    return -1;
}

static int reader_unk(struct json_reader *r)
{
    const char *unk = NULL;
    int rc = json_get_text(r->model, "unk_token", &unk, r->err);
    if (rc || !unk) {
        return rc;
    }
    r->spec.unk = reader_find(r, unk);
    return r->spec.unk >= 0 ? 0 : reader_invalid(r, "unk_token");
}

/* Merges are "a b" or ["a", "b"]; the second form is written out as the first. */
static int reader_merges(struct json_reader *r)
{
    const cJSON *merges = json_get(r->model, "merges");
    const cJSON *it;
    size_t n = 0;
    r->spec.n_merges = (size_t)cJSON_GetArraySize(merges);
    r->merges = mem_array(r->spec.n_merges, sizeof *r->merges);
    if (!r->merges) {
        return err_oom(r->err, "reading a tokenizer");
    }
    cJSON_ArrayForEach(it, merges)
    {
        const cJSON *a = cJSON_IsArray(it) ? it->child : NULL;
        const cJSON *b = a ? a->next : NULL;
        if (cJSON_IsString(it)) {
            r->merges[n++] = (struct token_text){ it->valuestring, strlen(it->valuestring) };
        } else if (cJSON_IsString(a) && cJSON_IsString(b) && !b->next &&
                   !strchr(a->valuestring, ' ')) {
            size_t at = r->pairs.len;
            buf_addf(&r->pairs, "%s %s", a->valuestring, b->valuestring);
            r->merges[n++].n = r->pairs.len - at;
        } else {
            return reader_invalid(r, "merges");
        }
    }
    size_t at = 0;
    for (size_t i = 0; i < n && r->pairs.len > 0; i++) {
        if (!r->merges[i].s) {
            r->merges[i].s = r->pairs.data + at;
            at += r->merges[i].n;
        }
    }
    return r->pairs.failed ? err_oom(r->err, "reading a tokenizer") : 0;
}

static int reader_byte_level(struct json_reader *r, const cJSON *step, int use_regex)
{
    const cJSON *regex = json_get(step, "use_regex");
    if (!is_type(step, "ByteLevel")) {
        return reader_refuse(r, "pre_tokenizer", type_of(step));
    }
    if (!cJSON_IsFalse(json_get(step, "add_prefix_space"))) {
        return reader_refuse(r, "pre_tokenizer", "add_prefix_space");
    }
    if ((!regex || cJSON_IsTrue(regex)) != use_regex) {
        return reader_refuse(r, "pre_tokenizer", "use_regex");
    }
    return 0;
}

/* A chain of two: what cuts, then byte symbols. */
static int reader_pre_pair(struct json_reader *r, const cJSON *cut, const cJSON *bytes)
{
    if (is_type(cut, "Digits")) {
        r->spec.pre = "smollm";
        return is_true(cut, "individual_digits")
                   ? reader_byte_level(r, bytes, 1)
                   : reader_refuse(r, "pre_tokenizer", "individual_digits");
    }
    if (!is_type(cut, "Split")) {
        return reader_refuse(r, "pre_tokenizer", type_of(cut));
    }
    const cJSON *regex = json_get(json_get(cut, "pattern"), "Regex");
    const cJSON *behavior = json_get(cut, "behavior");
    const char *name = cJSON_IsString(regex) ? pretoken_name_of_regex(regex->valuestring) : NULL;
    if (!name || is_true(cut, "invert") || !cJSON_IsString(behavior) ||
        strcmp(behavior->valuestring, "Isolated") != 0) {
        return reader_refuse(r, "pre_tokenizer",
                             cJSON_IsString(regex) ? regex->valuestring : "Split");
    }
    r->spec.pre = name;
    return reader_byte_level(r, bytes, 0);
}

static int reader_pre(struct json_reader *r)
{
    const cJSON *pre = json_get(r->root, "pre_tokenizer");
    if (is_type(pre, "ByteLevel")) {
        r->spec.pre = "gpt-2";
        return reader_byte_level(r, pre, 1);
    }
    const cJSON *chain = is_type(pre, "Sequence") ? json_get(pre, "pretokenizers") : NULL;
    if (cJSON_IsArray(chain) && cJSON_GetArraySize(chain) == 2) {
        return reader_pre_pair(r, chain->child, chain->child->next);
    }
    return reader_refuse(r, "pre_tokenizer", pre ? type_of(pre) : "(none)");
}

static int reader_normalizer(struct json_reader *r)
{
    const cJSON *normalizer = json_get(r->root, "normalizer");
    const cJSON *chain = is_type(normalizer, "Sequence") ? json_get(normalizer, "normalizers")
                                                         : NULL;
    r->spec.nfc = 0;
    if (!normalizer) {
        return 0;
    }
    if (is_type(normalizer, "NFC")) {
        r->spec.nfc = 1;
        return 0;
    }
    if (!cJSON_IsArray(chain)) {
        return reader_refuse(r, "normalizer", type_of(normalizer));
    }
    const cJSON *it;
    cJSON_ArrayForEach(it, chain)
    {
        if (!is_type(it, "NFC")) {
            return reader_refuse(r, "normalizer", type_of(it));
        }
        r->spec.nfc = 1;
    }
    return 0;
}

/* A template of one text: at most one special token in front, nothing behind. */
static int reader_template(struct json_reader *r, const cJSON *post)
{
    const cJSON *part = json_get(post, "single");
    part = cJSON_IsArray(part) ? part->child : NULL;
    const cJSON *id = json_get(json_get(part, "SpecialToken"), "id");
    if (cJSON_IsString(id)) {
        r->spec.bos = reader_find(r, id->valuestring);
        r->spec.add_bos = 1;
        part = part->next;
    }
    if (!json_get(part, "Sequence") || part->next || (cJSON_IsString(id) && r->spec.bos < 0)) {
        return reader_refuse(r, "post_processor", "TemplateProcessing");
    }
    return 0;
}

static int reader_post(struct json_reader *r, const cJSON *post)
{
    if (!post || is_type(post, "ByteLevel")) {
        return 0;
    }
    if (is_type(post, "TemplateProcessing")) {
        return reader_template(r, post);
    }
    if (!is_type(post, "Sequence") || !cJSON_IsArray(json_get(post, "processors"))) {
        return reader_refuse(r, "post_processor", type_of(post));
    }
    const cJSON *it;
    int rc = 0;
    cJSON_ArrayForEach(it, json_get(post, "processors"))
    {
        /* Sequences do not nest: the parser's depth is bounded, and nobody writes them so. */
        rc = rc                        ? rc
             : is_type(it, "Sequence") ? reader_refuse(r, "post_processor", "Sequence")
                                       : reader_post(r, it);
    }
    return rc;
}

static int reader_run(struct json_reader *r, struct tokenizer **out)
{
    r->model = json_get(r->root, "model");
    r->spec.bos = r->spec.eos = r->spec.unk = -1;
    const cJSON *decoder = json_get(r->root, "decoder");
    int rc = decoder && !is_type(decoder, "ByteLevel")
                 ? reader_refuse(r, "decoder", type_of(decoder))
                 : 0;
    rc = rc ? rc : reader_check_model(r);
    rc = rc ? rc : reader_pre(r);
    rc = rc ? rc : reader_normalizer(r);
    rc = rc ? rc : reader_count(r);
    rc = rc ? rc : reader_tokens(r);
    rc = rc ? rc : reader_unk(r);
    rc = rc ? rc : reader_merges(r);
    rc = rc ? rc : reader_post(r, json_get(r->root, "post_processor"));
    if (rc) {
        return rc;
    }
    r->spec.tokens = r->tokens;
    r->spec.types = r->types;
    r->spec.added_flags = r->flags;
    r->spec.merges = r->merges;
    rc = tokenizer_new(&r->spec, out, r->err);
    if (rc) {
        err_prefix(r->err, "cannot use tokenizer '%s'", r->path);
    }
    return rc;
}

int tokenizer_load_json(const char *path, struct tokenizer **out, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    cJSON *root = NULL;
    int rc = file_read(path, JSON_FILE_MAX, &text, err);
    if (!rc) {
        rc = json_parse(buf_str(&text), text.len, path, &root, err);
    }
    buf_clear(&text);
    if (rc) {
        return rc;
    }
    struct json_reader r = { .path = path, .root = root, .err = err };
    rc = reader_run(&r, out);
    free(r.tokens);
    free(r.types);
    free(r.flags);
    free(r.merges);
    buf_clear(&r.pairs);
    cJSON_Delete(root);
    return rc;
}
