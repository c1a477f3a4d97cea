/* SPDX-License-Identifier: MIT */
/* Requests of the trial's clients, over libcurl. */
#include "config.h"

#include "crash.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_S = 120 };

struct asker {
    CURL *curl;
    char url[64];
    const struct world *world;
};

struct asker *asker_new(const struct host *h)
{
    struct asker *a = calloc(1, sizeof *a);
    if (!a || !(a->curl = curl_easy_init())) {
        trial_fail(h->world, "no memory for a client");
    }
    (void)snprintf(a->url, sizeof a->url, "%s", h->url);
    a->world = h->world;
    return a;
}

void asker_free(struct asker *a)
{
    if (a) {
        curl_easy_cleanup(a->curl);
        free(a);
    }
}

static size_t take(char *data, size_t size, size_t n, void *ctx)
{
    struct buf *b = ctx;
    buf_add(b, data, size * n);
    return b->failed ? 0 : size * n;
}

static struct curl_slist *headers_of(const char *const *more)
{
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    list = curl_slist_append(list, "Expect:");
    while (more && *more) {
        list = curl_slist_append(list, *more++);
    }
    return list;
}

long asker_ask(struct asker *a, const char *method, const char *path, const char *const *more, const char *body,
               cJSON **out)
{
    char url[512];
    long status = 0;
    struct buf text = BUF_INIT;
    struct claas_error err = ERR_INIT;
    struct curl_slist *headers = headers_of(more);
    (void)snprintf(url, sizeof url, "%s%s", a->url, path);
    curl_easy_reset(a->curl);
    (void)curl_easy_setopt(a->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(a->curl, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(a->curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(a->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(a->curl, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(a->curl, CURLOPT_TIMEOUT, (long)PATIENCE_S);
    (void)curl_easy_setopt(a->curl, CURLOPT_WRITEFUNCTION, take);
    (void)curl_easy_setopt(a->curl, CURLOPT_WRITEDATA, &text);
    if (body) {
        (void)curl_easy_setopt(a->curl, CURLOPT_POSTFIELDS, body);
    }
    CURLcode got = curl_easy_perform(a->curl);
    (void)curl_easy_getinfo(a->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    if (got == CURLE_OPERATION_TIMEDOUT) {
        trial_fail(a->world, "%s %s: no answer within %d s", method, path, PATIENCE_S);
    }
    *out = NULL;
    if (got == CURLE_OK && json_parse(buf_str(&text), text.len, path, out, &err)) {
        trial_fail(a->world, "%s %s: status %ld with no JSON: %s", method, path, status, buf_str(&text));
    }
    buf_clear(&text);
    return got == CURLE_OK ? status : 0;
}

const char *answer_text(const struct world *w, const cJSON *o, const char *name)
{
    const cJSON *v = json_get(o, name);
    if (!cJSON_IsString(v)) {
        char *text = json_print(o);
        trial_fail(w, "no text '%s' in %s", name, text ? text : "(nothing)");
    }
    return v->valuestring;
}

uint64_t answer_number(const struct world *w, const cJSON *o, const char *name)
{
    const cJSON *v = json_get(o, name);
    if (!cJSON_IsNumber(v) || v->valuedouble < 0) {
        char *text = json_print(o);
        trial_fail(w, "no number '%s' in %s", name, text ? text : "(nothing)");
    }
    return (uint64_t)v->valuedouble;
}
