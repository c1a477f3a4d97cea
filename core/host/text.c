/* SPDX-License-Identifier: MIT */
/* The host's half of the text contract: sinks that collect, bounded and checked. */
#include "config.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "host/internal.h"

#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 1 << 24, TEXT_MAX = 1 << 26 };

void host_ids_clear(struct host_ids *ids)
{
    free(ids->ids);
    *ids = (struct host_ids){ 0 };
}

struct collected {
    struct host_ids *ids;
    size_t before;
    size_t loose; /* bytes of an id that came in pieces */
    char half[sizeof(int32_t)];
    const char *fault; /* why we stopped taking */
};

static int collect_id(struct collected *c, const char *bytes)
{
    struct host_ids *ids = c->ids;
    int32_t id = 0;
    memcpy(&id, bytes, sizeof id);
    if (id < 0) {
        c->fault = "a negative token id";
        return -1;
    }
    if (ids->n - c->before >= IDS_MAX) {
        c->fault = "too many token ids";
        return -1;
    }
    if (mem_grow((void **)&ids->ids, &ids->cap, ids->n + 1, sizeof *ids->ids) != 0) {
        c->fault = "more token ids than there is memory for";
        return -1;
    }
    ids->ids[ids->n++] = id;
    return 0;
}

/* Ids may come in pieces of any size. */
static int collect_ids(void *ctx, const void *data, size_t bytes)
{
    struct collected *c = ctx;
    const char *p = data;
    while (bytes > 0 && !c->fault) {
        size_t take = sizeof c->half - c->loose;
        take = take < bytes ? take : bytes;
        memcpy(c->half + c->loose, p, take);
        c->loose += take;
        p += take;
        bytes -= take;
        if (c->loose == sizeof c->half) {
            c->loose = 0;
            (void)collect_id(c, c->half); /* fault tells */
        }
    }
    return c->fault != NULL;
}

static int ids_end(struct host_use *use, int rc, struct collected *c, struct claas_error *err)
{
    const char *plugin = use->instance->module->name;
    rc = host_use_end(use, rc, err);
    const char *fault = c->fault ? c->fault : rc == 0 && c->loose ? "a part of a token id" : NULL;
    if (fault) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "", "plugin '%s' gave %s in %s.%s", plugin, fault,
                     use->kind, use->function);
    }
    if (rc != 0) {
        c->ids->n = c->before;
    }
    return rc;
}

int host_text_render(struct host_instance *i, const char *chat_json, uint32_t flags,
                     struct host_ids *out, struct claas_error *err)
{
    struct collected c = { .ids = out, .before = out->n };
    struct claas_sink sink = { .size = sizeof sink, .ctx = &c, .put = collect_ids };
    struct host_use use;
    int rc =
        host_use_begin(&use, i, "text", "render", i->text->render != NULL, HOST_CALL, NULL, err);
    if (rc != 0) {
        return rc;
    }
    return ids_end(&use, i->text->render(i->self, chat_json, flags, &sink, &use.err), &c, err);
}

int host_text_encode(struct host_instance *i, const char *text, size_t n, uint32_t flags,
                     struct host_ids *out, struct claas_error *err)
{
    struct collected c = { .ids = out, .before = out->n };
    struct claas_sink sink = { .size = sizeof sink, .ctx = &c, .put = collect_ids };
    struct host_use use;
    if (!utf8_valid(text, n)) {
        return err_set(err, CLAAS_ERR_INVALID, "text", "the text to encode is not valid UTF-8");
    }
    int rc =
        host_use_begin(&use, i, "text", "encode", i->text->encode != NULL, HOST_CALL, NULL, err);
    if (rc != 0) {
        return rc;
    }
    return ids_end(&use, i->text->encode(i->self, text, n, flags, &sink, &use.err), &c, err);
}

struct collected_text {
    struct buf *out;
    size_t before;
};

static int collect_text(void *ctx, const void *data, size_t bytes)
{
    struct collected_text *c = ctx;
    if (bytes > TEXT_MAX || c->out->len - c->before > TEXT_MAX - bytes) {
        return 1;
    }
    buf_add(c->out, data, bytes);
    return c->out->failed;
}

int host_text_decode(struct host_instance *i, const int32_t *ids, size_t n, uint32_t flags,
                     struct buf *out, struct claas_error *err)
{
    struct collected_text c = { .out = out, .before = out->len };
    struct claas_sink sink = { .size = sizeof sink, .ctx = &c, .put = collect_text };
    struct host_use use;
    int rc =
        host_use_begin(&use, i, "text", "decode", i->text->decode != NULL, HOST_CALL, NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->text->decode(i->self, ids, n, flags, &sink, &use.err), err);
    if (rc == 0 && out->failed) {
        rc = err_oom(err, "decoding token ids");
    }
    if (rc != 0) {
        buf_cut(out, c.before);
    }
    return rc;
}
