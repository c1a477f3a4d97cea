/* SPDX-License-Identifier: MIT */
/* claas job …: list, show, watch, cancel; claas audit: what became of feedback. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "cli/client.h"
#include "cli/print.h"

#include <stdlib.h>
#include <string.h>

/* "/v1/jobs/ID<tail>" on the heap; null, with the reason told in *out_status. */
static char *job_path(const struct cli *c, const char *tail, int *out_status)
{
    const char *id = c->args[0];
    struct buf path = BUF_INIT;
    if (!*id || id[strspn(id, "0123456789abcdef")]) {
        *out_status = cli_complain("'%s' is no job id: it has hexadecimal digits only", id);
        return NULL;
    }
    buf_addf(&path, "/v1/jobs/%s%s", id, tail);
    *out_status = CLI_FAILED;
    return buf_take(&path);
}

static int job_call(struct cli *c, const char *method)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    int status = 0;
    char *path = job_path(c, "", &status);
    if (!path) {
        return status;
    }
    status = client_call(c, method, path, NULL, &answer, &err) ? cli_fail(c, &err) : 0;
    if (status == 0 && !cli_print_json(c, answer)) {
        print_object(answer, 0, stdout);
    }
    cJSON_Delete(answer);
    free(path);
    return status;
}

/* Frees the path. */
static int job_table(struct cli *c, char *path, const char *list, const char *const *columns)
{
    struct claas_error err = ERR_INIT;
    cJSON *answer = NULL;
    int rc = path ? client_call(c, "GET", path, NULL, &answer, &err) : err_oom(&err, "a request");
    if (rc == 0 && !cli_print_json(c, answer)) {
        print_table(json_get(answer, list), columns, stdout);
    }
    cJSON_Delete(answer);
    free(path);
    return rc ? cli_fail(c, &err) : 0;
}

int cli_job_list(struct cli *c)
{
    static const char *const columns[] = { "id", "lora_id", "state", "phase", "version", "accepted", NULL };
    const char *const pairs[] = { "limit", cli_value(c, "limit"), NULL };
    return job_table(c, client_path("/v1/jobs", pairs), "jobs", columns);
}

int cli_audit(struct cli *c)
{
    static const char *const columns[] = { "time", "action", "lora_id", "version", "owner", "job", "reason", NULL };
    const char *const pairs[] = { "adapter", c->n_args ? c->args[0] : NULL, "limit", cli_value(c, "limit"), NULL };
    return job_table(c, client_path("/v1/audit", pairs), "audit", columns);
}

int cli_job_show(struct cli *c)
{
    return job_call(c, "GET");
}

int cli_job_cancel(struct cli *c)
{
    return job_call(c, "DELETE");
}

/* ---- watching ---- */

struct job_watch {
    const struct cli *cli;
    size_t shown; /* characters of the line of progress */
};

static void job_progress(struct job_watch *w, const cJSON *job)
{
    const char *state = cJSON_GetStringValue(json_get(job, "state"));
    const char *phase = cJSON_GetStringValue(json_get(job, "phase"));
    const cJSON *progress = json_get(job, "progress");
    const cJSON *done = json_get(progress, "done");
    const cJSON *total = json_get(progress, "total");
    char line[128];
    int n = snprintf(line, sizeof line, "%.20s: %.20s", state ? state : "-", phase ? phase : "-");
    if (cJSON_IsNumber(done) && cJSON_IsNumber(total) && total->valuedouble > 0) {
        n += snprintf(line + n, sizeof line - (size_t)n, " %.0f %%", 100 * done->valuedouble / total->valuedouble);
    }
    print_tame(line, "");
    (void)fprintf(stderr, "\r%-*s", (int)w->shown, line);
    w->shown = (size_t)n;
}

/* With --json each event is a line. Else the end is printed, and on a terminal the way there. */
static int job_event(void *ctx, const cJSON *job)
{
    struct job_watch *w = ctx;
    const cJSON *ended = json_get(job, "ended");
    int printed = cli_print_json(w->cli, job);
    if (!printed && cli_shows_progress(w->cli)) {
        job_progress(w, job);
        if (ended) {
            (void)fputc('\n', stderr);
        }
    }
    if (!printed && ended) {
        print_object(job, 0, stdout);
    }
    (void)fflush(stdout);
    return ended != NULL;
}

int cli_job_watch(struct cli *c)
{
    struct claas_error err = ERR_INIT;
    struct job_watch w = { .cli = c };
    int status = 0;
    char *path = job_path(c, "/events", &status);
    if (!path) {
        return status;
    }
    int rc = client_stream(c, path, NULL, job_event, &w, &err);
    free(path);
    return rc ? cli_fail(c, &err) : 0;
}
