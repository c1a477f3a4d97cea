/* SPDX-License-Identifier: MIT */
/* The templates of the ChatML family: turns between <|im_start|>role and <|im_end|>, with or
 * without a default system message in front. */
#include "config.h"

#include "text/template.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define TURN_START "<|im_start|>"
#define TURN_END "<|im_end|>"

struct chat_template {
    const char *name;
    /* Put in front when the first message is no system message; null: nothing is. */
    const char *default_system;
};

static const struct chat_template chatml = { "chatml", NULL };
static const struct chat_template smollm2 = {
    "smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
};
static const struct chat_template *const templates[] = { &chatml, &smollm2 };

/* The sources by which a template is known, without blanks and line feeds, with single quotes. */
#define LOOP "{%formessageinmessages%}"
#define TURN \
    "{{'<|im_start|>'+message['role']+'\\n'+message['content']+'<|im_end|>'+'\\n'}}{%endfor%}"
#define GENERATION "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}"
#define NO_PROMPT \
    "{%ifnotadd_generation_promptisdefined%}{%setadd_generation_prompt=false%}{%endif%}"
#define SMOLLM2_SYSTEM                                                                      \
    "{%ifloop.firstandmessages[0]['role']!='system'%}{{'<|im_start|>system\\nYouareahelpful" \
    "AIassistantnamedSmolLM,trainedbyHuggingFace<|im_end|>\\n'}}{%endif%}"
static const struct {
    const char *source;
    const struct chat_template *is;
} sources[] = {
    { LOOP TURN GENERATION, &chatml },
    { NO_PROMPT LOOP TURN GENERATION, &chatml },
    { LOOP SMOLLM2_SYSTEM TURN GENERATION, &smollm2 },
};

/* Makes sources comparable that differ only in how they were typed: blanks go, a line feed inside
 * of a literal is spelled \n, double quotes become single ones. Blanks in the default system text
 * go as well: no two known sources differ in those. */
static char *source_canonical(const char *source)
{
    struct buf b = BUF_INIT;
    int quoted = 0;
    for (const char *s = source; *s; s++) {
        char c = *s == '"' ? '\'' : *s;
        quoted ^= c == '\'';
        if (c == '\n' && quoted) {
            buf_adds(&b, "\\n");
        } else if (c != ' ' && c != '\n') {
            buf_addc(&b, c);
        }
    }
    return buf_take(&b);
}

static int template_recognise(const char *source, const struct chat_template **out,
                              struct claas_error *err)
{
    char *canonical = source_canonical(source);
    if (!canonical) {
        return err_oom(err, "reading a chat template");
    }
    const struct chat_template *found = NULL;
    for (size_t i = 0; i < sizeof sources / sizeof *sources && !found; i++) {
        found = strcmp(canonical, sources[i].source) == 0 ? sources[i].is : NULL;
    }
    free(canonical);
    if (!found) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "chat_template",
                       "cannot use the model's chat template: not one of those known; name one of "
                       "chatml, smollm2");
    }
    *out = found;
    return 0;
}

int chat_template_choose(const char *name, const char *source, const struct chat_template **out,
                         struct claas_error *err)
{
    if (name && name[0]) {
        for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
            if (strcmp(name, templates[i]->name) == 0) {
                *out = templates[i];
                return 0;
            }
        }
        return err_set(err, CLAAS_ERR_INVALID, "chat_template",
                       "unknown chat template '%.60s': known are chatml, smollm2", name);
    }
    if (!source || !source[0]) {
        return err_set(
            err, CLAAS_ERR_UNSUPPORTED, "chat_template",
            "cannot render a chat: the model has no chat template; name one of chatml, smollm2");
    }
    return template_recognise(source, out, err);
}

const char *chat_template_name(const struct chat_template *t)
{
    return t->name;
}

const char *chat_template_end(const struct chat_template *t)
{
    (void)t; /* all templates so far are of one family */
    return TURN_END;
}

/* A rendering in progress: the text, and where in it the template's own control tokens stand. */
struct rendering {
    struct buf *text;
    struct span *control;
    size_t n_control;
    size_t control_cap;
};
struct span {
    size_t from;
    size_t to;
};

static int render_control(struct rendering *r, const char *token, struct claas_error *err)
{
    if (mem_grow((void **)&r->control, &r->control_cap, r->n_control + 1, sizeof *r->control)) {
        return err_oom(err, "rendering a chat");
    }
    r->control[r->n_control].from = r->text->len;
    buf_adds(r->text, token);
    r->control[r->n_control++].to = r->text->len;
    return 0;
}

static int render_open(struct rendering *r, const char *role, struct claas_error *err)
{
    int rc = render_control(r, TURN_START, err);
    buf_addf(r->text, "%s\n", role);
    return rc;
}

static int render_close(struct rendering *r, struct claas_error *err)
{
    int rc = render_control(r, TURN_END, err);
    buf_addc(r->text, '\n');
    return rc;
}

/* The role of message number `at`, checked. */
static int message_role(const cJSON *message, int at, const char **role, struct claas_error *err)
{
    const cJSON *it = cJSON_IsObject(message) ? json_get(message, "role") : NULL;
    if (!cJSON_IsString(it) || it->valuestring[0] == '\0') {
        return err_set(err, CLAAS_ERR_INVALID, "messages", "message %d has no role", at);
    }
    const cJSON *calls = json_get(message, "tool_calls");
    if (calls && !(cJSON_IsArray(calls) && !calls->child)) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "messages",
                       "message %d has tool calls: not supported", at);
    }
    *role = it->valuestring;
    return 0;
}

static int render_message(struct rendering *r, const cJSON *message, const char *role,
                          struct claas_error *err)
{
    int rc = render_open(r, role, err);
    rc = rc ? rc : text_content_coerce(json_get(message, "content"), r->text, err);
    return rc ? rc : render_close(r, err);
}

static int render_all(const struct chat_template *t, const cJSON *messages, unsigned flags,
                      struct rendering *r, struct claas_error *err)
{
    if (!cJSON_IsArray(messages) || !messages->child) {
        return err_set(err, CLAAS_ERR_INVALID, "messages",
                       "'messages' must be a list of at least one message");
    }
    int rc = 0;
    int at = 0;
    for (const cJSON *it = messages->child; it && !rc; it = it->next, at++) {
        const char *role = NULL;
        rc = message_role(it, at, &role, err);
        if (!rc && at == 0 && t->default_system && strcmp(role, "system") != 0) {
            rc = render_open(r, "system", err);
            buf_adds(r->text, t->default_system);
            rc = rc ? rc : render_close(r, err);
        }
        rc = rc ? rc : render_message(r, it, role, err);
    }
    if (!rc && (flags & CLAAS_GENERATION_PROMPT)) {
        rc = render_open(r, "assistant", err);
    }
    return rc || !r->text->failed ? rc : err_oom(err, "rendering a chat");
}

int chat_render_text(const struct chat_template *t, const cJSON *messages, unsigned flags,
                     struct buf *out, struct claas_error *err)
{
    struct rendering r = { .text = out };
    int rc = render_all(t, messages, flags, &r, err);
    free(r.control);
    return rc;
}

/* Control tokens only where the template put them. */
static int encode_safely(const struct tokenizer *tok, const struct rendering *r, const char *text,
                         size_t n, struct token_list *ids, struct claas_error *err)
{
    size_t done = 0;
    int rc = 0;
    for (size_t i = 0; i < r->n_control && !rc; i++) {
        const struct span *c = &r->control[i];
        rc = tokenizer_encode(tok, text + done, c->from - done, 0, ids, err);
        rc = rc ? rc
                : tokenizer_encode(tok, text + c->from, c->to - c->from, CLAAS_SPECIAL, ids, err);
        done = c->to;
    }
    return rc ? rc : tokenizer_encode(tok, text + done, n - done, 0, ids, err);
}

int chat_render_ids(const struct chat_template *t, const struct tokenizer *tok,
                    const cJSON *messages, unsigned flags, struct token_list *ids, struct buf *text,
                    struct claas_error *err)
{
    struct buf rendered = BUF_INIT;
    struct rendering r = { .text = &rendered };
    size_t len = ids->len;
    int rc = render_all(t, messages, flags, &r, err);
    if (!rc) {
        const char *s = buf_str(&rendered);
        rc = flags & CHAT_SAFE_CONTENT
                 ? encode_safely(tok, &r, s, rendered.len, ids, err)
                 : tokenizer_encode(tok, s, rendered.len, CLAAS_SPECIAL, ids, err);
    }
    if (rc) {
        ids->len = len;
    } else if (text) {
        buf_add(text, rendered.data, rendered.len);
        rc = text->failed ? err_oom(err, "rendering a chat") : 0;
    }
    buf_clear(&rendered);
    free(r.control);
    return rc;
}
