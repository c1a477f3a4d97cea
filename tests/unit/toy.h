/* SPDX-License-Identifier: MIT */
/* A plugin one can see through, as engine, inference and text at once, over a real fs store: for
 * tests of the rooms that call such plugins. Its tokens are bytes and two signs of a chat. An
 * adapter is a file of lines, to which every step adds one, and a version says how many it has:
 * "v0" is fresh, "v1" has learnt once. What the plugin is to do and what it has seen are in `toy`.
 */
#ifndef UNIT_TOY_H
#define UNIT_TOY_H

#include "testing.h"

#include "adapters/adapters.h"
#include "host/host.h"

#include <pthread.h>

enum { TOY_OPEN = 256, TOY_END, TOY_VOCAB }; /* spelt <open> and <end> */
enum { TOY_TRAINS = 64, TOY_TOP = 2 };

struct toy {
    pthread_mutex_t mutex; /* of all that threads share: hold it to change orders under a call */
    pthread_cond_t changed;

    /* orders */
    const struct claas_storage *storage; /* of the house that is opened next, instead of that of fs */
    const char *say; /* instead of the version; null: the version */
    uint32_t context;
    int fail_trains; /* so many refuse; the same for the next ones, -1: all */
    int fail_loads;
    int fail_pauses;
    const char *spoil; /* steps go on, but tell `spoilt` as this metric of the last step */
    double spoilt;
    int cut_answers;        /* answers end behind their first token, with this code; 0: they do not */
    int drip;               /* answers come token by token, the text one token late */
    int32_t top_id;         /* the first alternative of each token; 0: "y" */
    int gate_answers;       /* answers wait behind their first token until toy_open_gate(), or until they are called off */
    int train_gate;         /* trains wait until toy_open_gate(), or until they are called off */
    void (*in_train)(void); /* called in the middle of a train, by its thread */

    /* what was seen */
    int creates, trains, loads, pauses, resumes;
    uint64_t last_scope; /* of the last answer */
    int decodes_in_pieces; /* calls that a plugin must not get while it hands out a piece */
    int at_answer_gate; /* answers that have come to their gate */
    int at_train_gate; /* trains that have come to the gate */
    int not_loaded;    /* answers asked of a version that was not loaded */
    int paused;
    struct claas_digest keys[TOY_TRAINS]; /* of each train */
    uint64_t seeds[TOY_TRAINS];
    int64_t last_setting;    /* burn of the last train, lora_r of the last create */
    uint32_t last_steps;     /* of the last train; of its last sample: */
    char last_teacher[4096]; /* spelt out */
    uint32_t last_n_response, last_age;
    float last_logprob; /* of the last token */
};
extern struct toy toy;

/* Everything as if nothing had happened yet. */
void toy_reset(void);

struct toy_house {
    const char *root; /* scratch directory */
    struct host_instance *instance;
    struct adapters *adapters;
};
void toy_house_open(struct toy_house *house);
void toy_house_close(struct toy_house *house);
/* Closed and opened again over what is in its directory. */
void toy_house_reopen(struct toy_house *house);

/* Waits until a counter of `toy` has reached n; fails the test after ten seconds. */
void toy_wait_at(const int *counter, int n);
void toy_open_gate(void);

/* Somebody else's step: the version behind `expected`, of these lines. 0 or the code. */
int toy_commit(struct adapters *a, const char *id, uint64_t expected, const char *job,
               const char *lines);

#endif
