/* SPDX-License-Identifier: MIT */
/* The text table: tokenizer and chat template of the model. */
#include "config.h"

#include "plugins/local/instance.h"

#include "base/err.h"
#include "base/json.h"

#include <string.h>

static int put(struct claas_sink *sink, const void *data, size_t bytes, struct claas_error *err)
{
    if (bytes && sink->put(sink->ctx, data, bytes)) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "the host took no more text");
    }
    return 0;
}

static int put_ids(struct claas_sink *sink, struct token_list *ids, int rc, struct claas_error *err)
{
    rc = rc ? rc : put(sink, ids->ids, ids->len * sizeof *ids->ids, err);
    token_list_clear(ids);
    return rc;
}

static int text_render(void *ctx, const char *chat_json, uint32_t flags, struct claas_sink *out,
                       struct claas_error *err)
{
    struct instance *self = ctx;
    struct token_list ids = TOKEN_LIST_INIT;
    cJSON *chat = NULL;
    if (!self->chat) {
        if (err) {
            *err = self->chat_error;
        }
        return self->chat_error.code;
    }
    int rc = json_parse(chat_json, strlen(chat_json), "chat", &chat, err);
    if (!rc && json_get(chat, "tools")) {
        rc = err_set(err, CLAAS_ERR_UNSUPPORTED, "tools", "cannot render tools: chat template '%s' has none",
                     chat_template_name(self->chat));
    }
    rc = rc ? rc : chat_render_ids(self->chat, self->file->tokenizer, json_get(chat, "messages"),
                                   flags & CLAAS_GENERATION_PROMPT, &ids, NULL, err);
    cJSON_Delete(chat);
    return put_ids(out, &ids, rc, err);
}

static int text_encode(void *ctx, const char *text, size_t n, uint32_t flags, struct claas_sink *out,
                       struct claas_error *err)
{
    struct instance *self = ctx;
    struct token_list ids = TOKEN_LIST_INIT;
    int rc = tokenizer_encode(self->file->tokenizer, text, n, flags & CLAAS_SPECIAL, &ids, err);
    return put_ids(out, &ids, rc, err);
}

static int text_decode(void *ctx, const int32_t *ids, size_t n, uint32_t flags, struct claas_sink *out,
                       struct claas_error *err)
{
    struct instance *self = ctx;
    struct buf text = BUF_INIT;
    int rc = tokenizer_decode(self->file->tokenizer, ids, n, flags & CLAAS_SPECIAL, &text, err);
    rc = rc ? rc : put(out, text.data, text.len, err);
    buf_clear(&text);
    return rc;
}

const struct claas_text instance_text = {
    .size = sizeof(struct claas_text),
    .render = text_render,
    .encode = text_encode,
    .decode = text_decode,
};
