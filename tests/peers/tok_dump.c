/* SPDX-License-Identifier: MIT */
/* What our tokenizer makes of text, for comparison with another: tok_dump TOKENIZER.json|MODEL.gguf
 * [TEMPLATE] Reads one JSON value a line. A string gives one line {"ids", "plain", "text",
 * "stream"}: ids with control tokens recognised and without, the text of the first decoded with
 * them spelled out, at once and token by token. An object
 * {"messages", "generate"} gives {"ids", "safe", "text"}: the rendered chat, and its ids with safe
 * contents. */
#include "config.h"

#include "base/err.h"
#include "base/json.h"
#include "plugins/local/modelfile.h"
#include "text/template.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_ids(cJSON *out, const char *name, const struct token_list *list)
{
    const int none = 0; /* an empty list has no array, which cJSON takes for a mistake */
    cJSON_AddItemToObject(out, name,
                          cJSON_CreateIntArray(list->ids ? list->ids : &none, (int)list->len));
}

static int dump_text(const struct tokenizer *tok, const char *text, cJSON *out,
                     struct claas_error *err)
{
    struct token_list ids = TOKEN_LIST_INIT;
    struct token_list plain = TOKEN_LIST_INIT;
    struct buf decoded = BUF_INIT;
    struct buf streamed = BUF_INIT;
    struct tokenizer_stream stream = { 0 };
    size_t n = strlen(text);
    int rc = tokenizer_encode(tok, text, n, CLAAS_SPECIAL, &ids, err);
    rc = rc ? rc : tokenizer_encode(tok, text, n, 0, &plain, err);
    rc = rc ? rc : tokenizer_decode(tok, ids.ids, ids.len, CLAAS_SPECIAL, &decoded, err);
    for (size_t i = 0; i < ids.len && !rc; i++) {
        rc = tokenizer_stream_add(&stream, tok, ids.ids[i], CLAAS_SPECIAL, &streamed, err);
    }
    rc = rc ? rc : tokenizer_stream_end(&stream, &streamed, err);
    add_ids(out, "ids", &ids);
    add_ids(out, "plain", &plain);
    cJSON_AddStringToObject(out, "text", buf_str(&decoded));
    cJSON_AddStringToObject(out, "stream", buf_str(&streamed));
    token_list_clear(&ids);
    token_list_clear(&plain);
    buf_clear(&decoded);
    buf_clear(&streamed);
    return rc;
}

static int dump_chat(const struct tokenizer *tok, const char *name, const cJSON *chat, cJSON *out,
                     struct claas_error *err)
{
    const struct chat_template *t = NULL;
    struct token_list ids = TOKEN_LIST_INIT;
    struct token_list safe = TOKEN_LIST_INIT;
    struct buf text = BUF_INIT;
    const cJSON *messages = json_get(chat, "messages");
    unsigned flags = cJSON_IsTrue(json_get(chat, "generate")) ? CLAAS_GENERATION_PROMPT : 0;
    int rc = chat_template_choose(name, NULL, &t, err);
    rc = rc ? rc : chat_render_ids(t, tok, messages, flags, &ids, &text, err);
    rc = rc ? rc : chat_render_ids(t, tok, messages, flags | CHAT_SAFE_CONTENT, &safe, NULL, err);
    add_ids(out, "ids", &ids);
    add_ids(out, "safe", &safe);
    cJSON_AddStringToObject(out, "text", buf_str(&text));
    token_list_clear(&ids);
    token_list_clear(&safe);
    buf_clear(&text);
    return rc;
}

static int dump_line(const struct tokenizer *tok, const char *name, const char *line, size_t n,
                     struct claas_error *err)
{
    cJSON *value = NULL;
    cJSON *out = cJSON_CreateObject();
    int rc = json_parse(line, n, "input", &value, err);
    if (!rc) {
        rc = cJSON_IsString(value) ? dump_text(tok, value->valuestring, out, err)
                                   : dump_chat(tok, name, value, out, err);
    }
    char *printed = rc ? NULL : json_print(out);
    if (printed) {
        puts(printed);
    }
    free(printed);
    cJSON_Delete(out);
    cJSON_Delete(value);
    return rc;
}

/* Runs all lines of standard input. */
static int dump_all(const struct tokenizer *tok, const char *name, struct claas_error *err)
{
    char *line = NULL;
    size_t cap = 0;
    int rc = 0;
    for (ssize_t n; !rc && (n = getline(&line, &cap, stdin)) > 0;) {
        rc = dump_line(tok, name, line, (size_t)n, err);
    }
    free(line);
    return rc;
}

int main(int argc, char **argv)
{
    struct claas_error err = ERR_INIT;
    struct tokenizer *tok = NULL;
    struct modelfile *model = NULL;
    if (argc < 2) {
        fputs("usage: tok_dump TOKENIZER.json|MODEL.gguf [TEMPLATE] <LINES\n", stderr);
        return 2;
    }
    const char *suffix = strrchr(argv[1], '.');
    int is_json = suffix && strcmp(suffix, ".json") == 0;
    int rc = is_json ? tokenizer_load_json(argv[1], &tok, &err)
                     : modelfile_open(argv[1], NULL, &model, &err);
    if (rc == 0) {
        rc = dump_all(is_json ? tok : model->tokenizer, argc > 2 ? argv[2] : "chatml", &err);
    }
    tokenizer_free(tok);
    modelfile_close(model);
    if (rc) {
        fprintf(stderr, "tok_dump: %s\n", err.message);
    }
    return rc ? 1 : 0;
}
