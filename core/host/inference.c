/* SPDX-License-Identifier: MIT */
/* The host's half of the inference contract: done() comes exactly once whatever the plugin does,
 * pieces are clamped and checked, and a generate counts as a call until it is done. */
#include "config.h"

#include "base/err.h"
#include "base/log.h"
#include "host/internal.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const no_names[] = { NULL };

enum { PIECE_IDS_MAX = 1 << 24, PIECE_TEXT_MAX = 1 << 26 };

int host_inference_info(struct host_instance *i, struct claas_inference_info *out,
                        struct claas_error *err)
{
    struct claas_inference_info info = { .size = sizeof info };
    struct host_use use;
    int rc = host_use_begin(&use, i, "inference", "info", i->inference->info != NULL, HOST_QUICK,
                            NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->inference->info(i->self, &info, &use.err), err);
    if (rc == 0) {
        info.size = sizeof info;
        info.formats = info.formats ? info.formats : no_names;
        *out = info;
    }
    return rc;
}

/* ---- generate ------------------------------------------------------------------------------- */

/* Between the plugin and the caller's stream. Two owners: the call that started it, and done(). */
struct generation {
    struct claas_stream stream;      /* what the plugin gets */
    const struct claas_stream *user; /* the caller's, until its done() returned */
    struct host_use use;
    atomic_int owners;
    atomic_int ended;     /* done() came, or the plugin refused */
    atomic_int spoiled;   /* a piece broke the contract */
    pthread_mutex_t lock; /* left */
    pthread_cond_t gone;
    int left; /* done() has returned to nobody's harm */
};

static void generation_drop(struct generation *g)
{
    if (atomic_fetch_sub(&g->owners, 1) == 1) {
        pthread_cond_destroy(&g->gone);
        pthread_mutex_destroy(&g->lock);
        free(g);
    }
}

static int all_finite(const float *values, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        if (!isfinite(values[k])) {
            return 0;
        }
    }
    return 1;
}

static int piece_ok(const struct claas_piece *p)
{
    if (p->n > PIECE_IDS_MAX || p->text_bytes > PIECE_TEXT_MAX || p->end_tokens > p->n ||
        (p->n > 0 && p->n_top > PIECE_IDS_MAX / p->n)) {
        return 0;
    }
    if ((p->n > 0 && !p->ids && !p->text && !p->delta_json) || (p->text_bytes > 0 && !p->text)) {
        return 0;
    }
    size_t rows = (size_t)p->n * p->n_top;
    return (!p->logprobs || all_finite(p->logprobs, p->n)) &&
           (!p->top_logprobs || all_finite(p->top_logprobs, rows));
}

static int generation_piece(void *ctx, const struct claas_piece *piece)
{
    struct generation *g = ctx;
    struct claas_piece mine;
    if (atomic_load(&g->ended) || atomic_load(&g->spoiled) || !piece) {
        return 1;
    }
    host_clamp(&mine, sizeof mine, piece, piece->size);
    mine.size = sizeof mine;
    if (!piece_ok(&mine)) {
        atomic_store(&g->spoiled, 1);
        return 1;
    }
    return g->user->piece(g->user->ctx, &mine);
}

/* The error for the caller's done(), or null. */
static const struct claas_error *generation_error(struct generation *g,
                                                  const struct claas_error *told,
                                                  struct claas_error *fit)
{
    const char *plugin = g->use.instance->module->name;
    if (atomic_load(&g->spoiled)) {
        (void)err_set(fit, CLAAS_ERR_INTERNAL, "",
                      "plugin '%s' gave an answer with log-probabilities that are no numbers, or "
                      "of impossible size",
                      plugin);
        return fit;
    }
    if (!told) {
        return NULL;
    }
    struct claas_error whole = ERR_INIT;
    host_clamp(&whole, sizeof whole, told, told->size);
    int code = whole.code == 0 ? CLAAS_ERR_INTERNAL : whole.code;
    code = host_error_settle(plugin, "inference.generate", code, &whole, fit);
    (void)host_use_late(&g->use, code, fit);
    return fit;
}

static void generation_done(void *ctx, const struct claas_error *told)
{
    struct generation *g = ctx;
    if (atomic_exchange(&g->ended, 1)) {
        log_line(LOG_ERROR, "host", "plugin '%s' ended one generate twice",
                 g->use.instance->module->name);
        return;
    }
    struct claas_error fit = ERR_INIT;
    const struct claas_error *shown = generation_error(g, told, &fit);
    g->user->done(g->user->ctx, shown);
    pthread_mutex_lock(&g->lock);
    g->left = 1;
    pthread_cond_broadcast(&g->gone);
    pthread_mutex_unlock(&g->lock);
    if (!g->use.serial) {
        host_use_leave(&g->use);
    }
    generation_drop(g);
}

static struct generation *generation_new(const struct claas_stream *user)
{
    struct generation *g = calloc(1, sizeof *g);
    if (g) {
        g->stream = (struct claas_stream){
            .size = sizeof g->stream, .ctx = g, .piece = generation_piece, .done = generation_done
        };
        g->user = user;
        atomic_init(&g->owners, 2);
        atomic_init(&g->ended, 0);
        atomic_init(&g->spoiled, 0);
        pthread_mutex_init(&g->lock, NULL);
        pthread_cond_init(&g->gone, NULL);
    }
    return g;
}

/* A serial module must not be called again before this one is done, whoever forgot to say PARALLEL.
 */
static void generation_wait(struct generation *g)
{
    pthread_mutex_lock(&g->lock);
    while (!g->left) {
        pthread_cond_wait(&g->gone, &g->lock);
    }
    pthread_mutex_unlock(&g->lock);
}

static int generation_start(struct generation *g, const struct claas_generate *generate,
                            const struct claas_call *call, struct claas_error *err)
{
    struct host_instance *i = g->use.instance;
    struct claas_error why = ERR_INIT;
    int serial = g->use.serial;
    int rc = i->inference->generate(i->self, generate, &g->stream, call, &why);
    if (rc != 0 && !atomic_exchange(&g->ended, 1)) {
        rc = host_error_settle(i->module->name, "inference.generate", rc, &why, err);
        rc = host_use_late(&g->use, rc, err);
        host_use_leave(&g->use);
        generation_drop(g); /* the share of done(), which never comes */
        generation_drop(g);
        return rc;
    }
    if (rc != 0) {
        log_line(LOG_ERROR, "host", "plugin '%s' refused a generate that it had ended",
                 i->module->name);
    }
    if (serial) {
        generation_wait(g);
        host_use_leave(&g->use);
    }
    generation_drop(g);
    return 0;
}

int host_inference_generate(struct host_instance *i, const struct claas_generate *generate,
                            const struct claas_stream *stream, const struct claas_call *call,
                            struct claas_error *err)
{
    struct generation *g = generation_new(stream);
    if (!g) {
        return err_oom(err, "starting a generate");
    }
    int rc = host_use_begin(&g->use, i, "inference", "generate", i->inference->generate != NULL,
                            HOST_CALL, call, err);
    if (rc != 0) {
        generation_drop(g);
        generation_drop(g);
        return rc;
    }
    /* Only a module with a turn to give back is waited for. */
    g->use.serial = !(i->module->plugin.flags & CLAAS_PARALLEL);
    return generation_start(g, generate, call, err);
}

/* ---- the rest ------------------------------------------------------------------------------- */

int host_inference_score(struct host_instance *i, const struct claas_score *score,
                         const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "inference", "score", i->inference->score != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->inference->score(i->self, score, call, &use.err), err);
    size_t rows = (size_t)score->n_response * score->n_top;
    if (rc == 0 && ((score->out_logprobs && !all_finite(score->out_logprobs, score->n_response)) ||
                    (score->out_top_logprobs && !all_finite(score->out_top_logprobs, rows)))) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "",
                     "plugin '%s' gave log-probabilities that are no numbers", i->module->name);
    }
    return rc;
}

int host_inference_load(struct host_instance *i, const struct claas_version *version,
                        const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "inference", "load", i->inference->load != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->inference->load(i->self, version, call, &use.err), err);
}

int host_inference_unload(struct host_instance *i, const struct claas_digest *serve,
                          const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "inference", "unload", i->inference->unload != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->inference->unload(i->self, serve, call, &use.err), err);
}

int host_inference_pause(struct host_instance *i, const struct claas_call *call,
                         struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "inference", "pause", i->inference->pause != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->inference->pause(i->self, call, &use.err), err);
}

int host_inference_resume(struct host_instance *i, const struct claas_call *call,
                          struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "inference", "resume", i->inference->resume != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->inference->resume(i->self, call, &use.err), err);
}
