/* SPDX-License-Identifier: MIT */
/* JSON of any depth and spelling; and what is a conversation: its rendering, and its copy with feedback in it. */
#include "config.h"

#include "fuzz.h"

#include "base/buf.h"
#include "base/json.h"
#include "text/hindsight.h"
#include "text/template.h"

#include <string.h>

/* What was read is written so that the same is read again. */
static void look_again(const cJSON *v)
{
    struct claas_error err = ERR_INIT;
    cJSON *again = NULL;
    char *text = json_print(v);
    FUZZ_TRUE(text != NULL);
    int rc = json_parse(text, strlen(text), "again", &again, &err);
    FUZZ_ERROR(rc, err);
    FUZZ_TRUE(rc == 0);
    char *text_again = json_print(again);
    FUZZ_TRUE(text_again != NULL && strcmp(text, text_again) == 0);
    free(text_again);
    free(text);
    cJSON_Delete(again);
}

static void render(const cJSON *messages, const char *name)
{
    struct claas_error err = ERR_INIT;
    const struct chat_template *t = NULL;
    struct buf text = BUF_INIT;
    cJSON *later = NULL;
    FUZZ_TRUE(chat_template_choose(name, NULL, &t, &err) == 0);
    int rc = chat_render_text(t, messages, CLAAS_GENERATION_PROMPT, &text, &err);
    FUZZ_ERROR(rc, err);
    rc = hindsight_messages(messages, " be brief ", &later, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        buf_cut(&text, 0);
        rc = chat_render_text(t, later, 0, &text, &err);
        FUZZ_ERROR(rc, err);
    }
    cJSON_Delete(later);
    buf_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct claas_error err = ERR_INIT;
    cJSON *v = NULL;
    int rc = json_parse((const char *)data, n, "an input", &v, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        look_again(v);
        render(v, "chatml");
        render(v, "smollm2");
    }
    cJSON_Delete(v);
    return 0;
}
