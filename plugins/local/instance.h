/* SPDX-License-Identifier: MIT */
/* One instance of the plugin: a model that is loaded once and shared by training, answering and text. What plugin.c,
 * engine.c, infer.c, queue.c and texts.c share; nobody else includes it. */
#ifndef LOCAL_INSTANCE_H
#define LOCAL_INSTANCE_H

#include "plugins/local/model.h"
#include "plugins/local/modelfile.h"
#include "plugins/local/warm.h"

#include "text/template.h"

#include <claas/plugin.h>

#include <pthread.h>

/* The greatest number of best tokens that a row of an answer or a score can tell. */
enum { INSTANCE_TOP_MAX = 256 };

struct reading; /* a version being read: versions.c */
struct queue; /* requests being answered and waiting: queue.h */

struct instance {
    const struct claas_host *host;
    struct kernels *kernels;
    struct modelfile *file;
    struct model *model;
    const struct chat_template *chat;  /* null: none known, rendering says so */
    struct claas_error chat_error;     /* why there is none */
    uint8_t *allowed;                  /* [vocab] 1: a token stands behind the id, so it may be sampled */
    char *name;                        /* model_name */
    struct warm *warm;
    struct queue *queue;
    pthread_mutex_t reading;           /* of the next two; never held while files are read */
    pthread_cond_t read;               /* a version has been read, or could not be */
    struct reading *readings;          /* versions being read from files: two requests for the same one read it once */
    pthread_mutex_t training;          /* one step at a time; taken before `reading` */
};

/* Around the use of instance_adapter. */
void instance_reading_init(struct instance *self);
void instance_reading_clear(struct instance *self);

/* The adapter of a version, from memory or from its files, with a hold to be released on instance->warm. for_training:
 * with its moments, found by the digest of the state; else by that of serving. CANCELLED when the call has no time left
 * while somebody else reads the same version. */
int instance_adapter(struct instance *self, const struct claas_version *version, int for_training,
                     const struct claas_call *call, const struct warm_adapter **out, struct claas_error *err);

/* Around a step. CANCELLED when the call has no time left while another step goes on: then there is nothing to end. */
int instance_step_begin(struct instance *self, const struct claas_call *call, struct claas_error *err);
void instance_step_end(struct instance *self);

/* INVALID, with both numbers, when n tokens of `what` do not fit. */
int instance_check_room(const struct instance *self, size_t n, const char *what, struct claas_error *err);

extern const char *const instance_formats[];
extern const struct claas_engine instance_engine;
extern const struct claas_inference instance_inference;
extern const struct claas_text instance_text;

#endif
