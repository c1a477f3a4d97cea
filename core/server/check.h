/* SPDX-License-Identifier: MIT */
/* Checks the members of a request against what they should be and collects all violations in the list form that
 * clients of the Python system know: [{"type", "loc", "msg", "input"}]. */
#ifndef SERVER_CHECK_H
#define SERVER_CHECK_H

#include <cjson/cJSON.h>

#include <stddef.h>
#include <stdint.h>

struct check {
    cJSON *list;       /* violations; null while there are none */
    char loc[128];     /* where the object at hand is, parts joined by dots: "body", "body.requests.0" */
    char param[64];    /* the first member at fault */
    char message[192]; /* "requests.0.feedback: Field required" */
    int failed;        /* out of memory */
};

#define CHECK_INIT(where) ((struct check){ .loc = where })

/* Absent members (JSON null counts as absent): a violation where `required`, else *out is left alone. A wrong one is a
 * violation. The rest of a check goes on, so that all are told at once. Returns 1 if *out was set. */
int check_text(struct check *c, const cJSON *o, const char *name, int required, size_t min_chars, const char **out);
int check_int(struct check *c, const cJSON *o, const char *name, int64_t min, int64_t max, int64_t *out);
int check_real(struct check *c, const cJSON *o, const char *name, double min, double max, double *out);
int check_bool(struct check *c, const cJSON *o, const char *name, int *out);
int check_list(struct check *c, const cJSON *o, const char *name, int required, size_t min_items, const cJSON **out);
int check_object(struct check *c, const cJSON *o, const char *name, int required, const cJSON **out);

/* A text from a query (null: absent), as a whole number or as it is. */
int check_query_int(struct check *c, const char *text, const char *name, int64_t min, int64_t max, int64_t *out);
int check_query_text(struct check *c, const char *text, const char *name, int required, const char **out);

/* A violation of another kind. */
void check_fail(struct check *c, const char *name, const char *type, const char *message, const cJSON *input);

/* Goes into an element or member; check_leave with what enter returned. */
size_t check_enter(struct check *c, const char *name, long index);
void check_leave(struct check *c, size_t was);

#endif
