/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cli/client.h"

#include "base/err.h"
#include "base/file.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char client_unreachable[] = "url";

/* One transfer: where its bytes go, and what stopped it. */
struct client_transfer {
    CURL *curl;
    struct curl_slist *headers;
    struct buf body;  /* the whole answer, or the error's text */
    int is_event_stream;
    size_t consumed;  /* of body, by the event parser */
    int (*each)(void *ctx, const cJSON *event);
    void *ctx;
    int stopped;      /* each() said so, or [DONE] came, or an event told of an error */
    struct claas_error told; /* by such an event; code 0 if none was */
    FILE *file;
    int file_errno;   /* of a failed write to it */
    int is_daemon;    /* the address is the daemon's */
    size_t left;      /* bytes the file may still take */
    int too_large;
    int shows_progress;
};

static void client_close(struct client_transfer *t)
{
    curl_slist_free_all(t->headers);
    curl_easy_cleanup(t->curl);
    buf_clear(&t->body);
}

static int client_add_header(struct client_transfer *t, const char *line)
{
    struct curl_slist *grown = curl_slist_append(t->headers, line);
    if (!grown) {
        return -1;
    }
    t->headers = grown;
    return 0;
}

static int client_add_key(const struct cli *c, struct client_transfer *t, struct claas_error *err)
{
    if (!c->key_file) {
        return 0;
    }
    struct buf key = BUF_INIT;
    struct buf line = BUF_INIT;
    int rc = file_read(c->key_file, 4096, &key, err);
    if (rc == 0) {
        size_t n = strcspn(buf_str(&key), "\r\n");
        buf_addf(&line, "Authorization: Bearer %.*s", (int)n, buf_str(&key));
        if (line.failed || client_add_header(t, line.data)) {
            rc = err_oom(err, "reading the key");
        }
    }
    buf_clear(&key);
    buf_clear(&line);
    return rc;
}

static int client_open(const struct cli *c, const char *url, struct client_transfer *t,
                       struct claas_error *err)
{
    t->curl = curl_easy_init();
    struct buf full = BUF_INIT;
    size_t base = strlen(c->url);
    while (base > 0 && c->url[base - 1] == '/') {
        base--;
    }
    int is_unix = strncmp(c->url, "unix:/", 6) == 0;
    if (url[0] == '/' && is_unix) {
        buf_adds(&full, "http://localhost");
    } else if (url[0] == '/') {
        buf_add(&full, c->url, base);
    }
    buf_adds(&full, url);
    t->is_daemon = url[0] == '/';
    int rc = 0;
    if (!t->curl || full.failed || client_add_header(t, "Content-Type: application/json") ||
        client_add_header(t, "Expect:")) {
        rc = err_oom(err, "preparing a request");
    } else if (curl_easy_setopt(t->curl, CURLOPT_URL, full.data)) {
        rc = err_set(err, CLAAS_ERR_INVALID, "url", "cannot use the address '%s'", full.data);
    } else if (url[0] == '/') {
        rc = client_add_key(c, t, err);
    }
    buf_clear(&full);
    if (rc == 0) {
        (void)curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
        (void)curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT, 10L);
        (void)curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
        (void)curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS_STR, "http,https");
        if (t->is_daemon && is_unix) {
            (void)curl_easy_setopt(t->curl, CURLOPT_UNIX_SOCKET_PATH, c->url + 5);
        }
        if (t->is_daemon && c->ca_file && c->ca_file[0]) {
            (void)curl_easy_setopt(t->curl, CURLOPT_CAINFO, c->ca_file);
        }
    }
    return rc;
}

/* The code whose name the daemon sent, else the one that goes with the status. */
static int client_code(const char *name, long status)
{
    for (int code = CLAAS_ERR_INVALID; name && code <= CLAAS_ERR_INTERNAL; code++) {
        if (strcmp(err_name(code), name) == 0) {
            return code;
        }
    }
    return err_from_http_status((int)status);
}

/* The message of an error body of the daemon's; 0 when there is none in it. */
static int client_told_error(const cJSON *body, long status, struct claas_error *err)
{
    struct claas_error ignored = ERR_INIT;
    const char *message = NULL;
    const char *param = NULL;
    const char *name = NULL;
    const cJSON *inner = json_get(body, "error");
    (void)json_get_text(inner, "message", &message, &ignored); /* absent is fine, here and below */
    (void)json_get_text(inner, "param", &param, &ignored);
    (void)json_get_text(inner, "code", &name, &ignored);
    if (!message) {
        (void)json_get_text(body, "detail", &message, &ignored);
    }
    return message ? err_set(err, client_code(name, status), param, "%s", message) : 0;
}

/* The words of an answer that is an error, or its status alone. */
static int client_http_error(struct client_transfer *t, long status, struct claas_error *err)
{
    struct claas_error ignored = ERR_INIT;
    cJSON *body = NULL;
    int rc = 0;
    if (json_parse(buf_str(&t->body), t->body.len, "answer", &body, &ignored) == 0) {
        rc = client_told_error(body, status, err);
    }
    cJSON_Delete(body);
    return rc ? rc
              : err_set(err, err_from_http_status((int)status), "", "%s answered with status %ld",
                        t->is_daemon ? "the daemon" : "the server", status);
}

static int client_perform(const struct cli *c, struct client_transfer *t, struct claas_error *err)
{
    CURLcode got = curl_easy_perform(t->curl);
    long status = 0;
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->too_large) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, "", "the answer is larger than the limit");
    }
    if (t->file_errno) {
        return err_errno(err, t->file_errno, "", "cannot write the file");
    }
    if (got != CURLE_OK && !t->stopped) {
        const char *url = c->url;
        if (!t->is_daemon) {
            (void)curl_easy_getinfo(t->curl, CURLINFO_EFFECTIVE_URL, &url);
        }
        if (status > 0 || got == CURLE_GOT_NOTHING || got == CURLE_RECV_ERROR) {
            return err_set(err, CLAAS_ERR_UNAVAILABLE, "", "the answer of '%s' broke off: %s", url,
                           curl_easy_strerror(got));
        }
        return err_set(err, CLAAS_ERR_UNAVAILABLE, t->is_daemon ? client_unreachable : "",
                       "cannot reach '%s': %s", url, curl_easy_strerror(got));
    }
    return status >= 300 ? client_http_error(t, status, err) : 0;
}

static size_t client_take(char *data, size_t size, size_t n, void *ctx)
{
    struct client_transfer *t = ctx;
    if (size * n > CLIENT_ANSWER_MAX - t->body.len) {
        t->too_large = 1;
        return 0;
    }
    buf_add(&t->body, data, size * n);
    return t->body.failed ? 0 : size * n;
}

static int client_set_body(struct client_transfer *t, const char *method, const cJSON *body,
                           char **out_text)
{
    (void)curl_easy_setopt(t->curl, CURLOPT_CUSTOMREQUEST, method);
    *out_text = body ? json_print(body) : NULL;
    if (body && !*out_text) {
        return -1;
    }
    if (*out_text) {
        (void)curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(*out_text));
        (void)curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, *out_text);
    }
    return 0;
}

int client_call(const struct cli *c, const char *method, const char *path, const cJSON *body,
                cJSON **out, struct claas_error *err)
{
    return client_call_with(c, method, path, NULL, body, out, err);
}

int client_call_with(const struct cli *c, const char *method, const char *path, const char *header,
                     const cJSON *body, cJSON **out, struct claas_error *err)
{
    struct client_transfer t = { 0 };
    char *text = NULL;
    int rc = client_open(c, path, &t, err);
    if (rc == 0 && ((header && client_add_header(&t, header)) || client_set_body(&t, method, body, &text))) {
        rc = err_oom(err, "preparing a request");
    }
    if (rc == 0) {
        (void)curl_easy_setopt(t.curl, CURLOPT_WRITEFUNCTION, client_take);
        (void)curl_easy_setopt(t.curl, CURLOPT_WRITEDATA, &t);
        rc = client_perform(c, &t, err);
    }
    if (rc == 0) {
        rc = json_parse(buf_str(&t.body), t.body.len, "the daemon's answer", out, err);
    }
    free(text);
    client_close(&t);
    return rc;
}

/* One line of an event stream. */
static void client_event(struct client_transfer *t, const char *line, size_t n)
{
    if (n < 6 || memcmp(line, "data: ", 6) != 0) {
        return;
    }
    line += 6;
    n -= 6;
    if (n == 6 && memcmp(line, "[DONE]", 6) == 0) {
        t->stopped = 1;
        return;
    }
    cJSON *event = NULL;
    t->told = ERR_INIT;
    if (json_parse(line, n, "the daemon's event", &event, &t->told) == 0) {
        t->stopped = t->each(t->ctx, event) != 0;
        if (json_get(event, "error") && !client_told_error(event, 500, &t->told)) {
            (void)err_set(&t->told, CLAAS_ERR_INTERNAL, "",
                          "the daemon told of an error without words");
        }
    }
    t->stopped |= t->told.code != 0;
    cJSON_Delete(event);
}

static size_t client_take_events(char *data, size_t size, size_t n, void *ctx)
{
    struct client_transfer *t = ctx;
    size_t took = client_take(data, size, n, ctx);
    long status = 0;
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    while (took > 0 && status < 300 && !t->stopped) {
        const char *start = t->body.data + t->consumed;
        const char *end = memchr(start, '\n', t->body.len - t->consumed);
        if (!end) {
            break;
        }
        size_t line = (size_t)(end - start);
        t->consumed += line + 1;
        client_event(t, start, line > 0 && start[line - 1] == '\r' ? line - 1 : line);
    }
    if (t->consumed == t->body.len && took > 0 && status < 300) {
        buf_cut(&t->body, 0);
        t->consumed = 0;
    }
    return t->stopped ? 0 : took;
}

int client_stream(const struct cli *c, const char *path, const cJSON *body,
                  int (*each)(void *ctx, const cJSON *event), void *ctx, struct claas_error *err)
{
    struct client_transfer t = { .each = each, .ctx = ctx };
    char *text = NULL;
    int rc = client_open(c, path, &t, err);
    if (rc == 0 && client_set_body(&t, body ? "POST" : "GET", body, &text)) {
        rc = err_oom(err, "preparing a request");
    }
    if (rc == 0) {
        (void)curl_easy_setopt(t.curl, CURLOPT_WRITEFUNCTION, client_take_events);
        (void)curl_easy_setopt(t.curl, CURLOPT_WRITEDATA, &t);
        rc = client_perform(c, &t, err);
    }
    if (rc == 0 && t.told.code) {
        *err = t.told;
        rc = t.told.code;
    } else if (rc == 0 && !t.stopped) {
        rc = err_set(err, CLAAS_ERR_UNAVAILABLE, "", "the answer broke off");
    }
    free(text);
    client_close(&t);
    return rc;
}

static size_t client_take_file(char *data, size_t size, size_t n, void *ctx)
{
    struct client_transfer *t = ctx;
    long status = 0;
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300) {
        return client_take(data, size, n, ctx);
    }
    if (size * n > t->left) {
        t->too_large = 1;
        return 0;
    }
    t->left -= size * n;
    size_t written = fwrite(data, size, n, t->file) * size;
    t->file_errno = written < size * n ? errno : 0;
    return written;
}

static int client_progress(void *ctx, curl_off_t total, curl_off_t now, curl_off_t up_total,
                           curl_off_t up_now)
{
    (void)up_total;
    (void)up_now;
    const struct client_transfer *t = ctx;
    if (t->shows_progress && total > 0) {
        (void)fprintf(stderr, "\r%3d %% of %lld MB", (int)(now * 100 / total),
                      (long long)(total / 1000000));
        if (now == total) {
            (void)fputc('\n', stderr);
        }
    }
    return 0;
}

int client_download(const struct cli *c, const char *url, FILE *to, size_t limit,
                    struct claas_error *err)
{
    struct client_transfer t = { .file = to,
                                 .left = limit,
                                 .shows_progress = cli_shows_progress(c) };
    int rc = client_open(c, url, &t, err);
    if (rc == 0) {
        (void)curl_easy_setopt(t.curl, CURLOPT_WRITEFUNCTION, client_take_file);
        (void)curl_easy_setopt(t.curl, CURLOPT_WRITEDATA, &t);
        (void)curl_easy_setopt(t.curl, CURLOPT_FOLLOWLOCATION, url[0] == '/' ? 0L : 1L);
        (void)curl_easy_setopt(t.curl, CURLOPT_MAXREDIRS, 5L);
        (void)curl_easy_setopt(t.curl, CURLOPT_NOPROGRESS, 0L);
        (void)curl_easy_setopt(t.curl, CURLOPT_XFERINFOFUNCTION, client_progress);
        (void)curl_easy_setopt(t.curl, CURLOPT_XFERINFODATA, &t);
        rc = client_perform(c, &t, err);
    }
    client_close(&t);
    return rc;
}

char *client_path(const char *path, const char *const *pairs)
{
    struct buf b = BUF_INIT;
    buf_adds(&b, path);
    char sign = '?';
    for (; pairs[0]; pairs += 2) {
        if (!pairs[1]) {
            continue;
        }
        char *escaped = curl_easy_escape(NULL, pairs[1], (int)strlen(pairs[1]));
        buf_addc(&b, sign);
        buf_addf(&b, "%s=%s", pairs[0], escaped ? escaped : "");
        b.failed |= !escaped;
        curl_free(escaped);
        sign = '&';
    }
    return buf_take(&b);
}

int client_add_message(cJSON *messages, const char *role, const char *content)
{
    cJSON *m = cJSON_CreateObject();
    if (!m || !cJSON_AddStringToObject(m, "role", role) ||
        !cJSON_AddStringToObject(m, "content", content) || !cJSON_AddItemToArray(messages, m)) {
        cJSON_Delete(m);
        return CLI_FAILED;
    }
    return 0;
}

int client_exit_status(const struct claas_error *err)
{
    if (err->code == CLAAS_ERR_UNAVAILABLE && strcmp(err->what, client_unreachable) == 0) {
        return CLI_UNREACHABLE;
    }
    return err_exit_code(err->code);
}
