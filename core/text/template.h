/* SPDX-License-Identifier: MIT */
/* Chat templates: a conversation as the text and the ids that a model was trained on. There is no
 * Jinja here: known templates are recognised by their source or chosen by name, and unknown ones
 * are refused. */
#ifndef TEXT_TEMPLATE_H
#define TEXT_TEMPLATE_H

#include "base/buf.h"
#include "text/tokenizer.h"

#include <cjson/cJSON.h>
#include <claas/error.h>

/* One known template; all are constants. */
struct chat_template;

/* Finds the template: by `name` when it is not null or empty ("chatml", "smollm2"), else by the
 * Jinja `source` of a model. UNSUPPORTED when the source is missing or unknown, INVALID when the
 * name is (both messages list the names). */
int chat_template_choose(const char *name, const char *source, const struct chat_template **out,
                         struct claas_error *err);
const char *chat_template_name(const struct chat_template *t);
/* Spelling of the token that ends a turn ("<|im_end|>"): generation stops there. */
const char *chat_template_end(const struct chat_template *t);

/* Flags beside CLAAS_GENERATION_PROMPT (the header of an assistant turn at the end). */
enum {
    /* Message contents and roles are tokenised with control tokens off, so that a user who types
     * "<|im_end|>" cannot end a turn. Off by default: transformers tokenises the rendered text as a
     * whole, and differs. */
    CHAT_SAFE_CONTENT = 1 << 17
};

/* Appends the rendered conversation. `messages` is an array of objects with role (string) and
 * content (any JSON, coerced by text_content_coerce). INVALID, naming the message's number, when it
 * is empty or not of this form or carries tool calls, which no template here can show. On error
 * `out` may hold a part. */
int chat_render_text(const struct chat_template *t, const cJSON *messages, unsigned flags,
                     struct buf *out, struct claas_error *err);

/* The same as ids; the text as well when `text` is not null. No first token is added beyond what
 * the template has. */
int chat_render_ids(const struct chat_template *t, const struct tokenizer *tok,
                    const cJSON *messages, unsigned flags, struct token_list *ids, struct buf *text,
                    struct claas_error *err);

/* Appends the text of a message's content. Null or absent: nothing; a string: itself; an array: its
 * strings and the `text`, else `content`, of its objects, joined by newlines, the rest left out; an
 * object: its `text` when that is a string; anything else as it is printed in JSON. */
int text_content_coerce(const cJSON *content, struct buf *out, struct claas_error *err);

#endif
