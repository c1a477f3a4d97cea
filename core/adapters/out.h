/* SPDX-License-Identifier: MIT */
/* Inside the adapters room: what an out is made of, for those who commit it. */
#ifndef ADAPTERS_OUT_H
#define ADAPTERS_OUT_H

#include "internal.h"

struct adapter_out {
    struct claas_out abi; /* first: plugins get a pointer to this */
    struct adapters *a;
    char *id, *base, *scratch;
    int (*claim)(void *ctx, const char *uri, struct claas_error *err);
    void *ctx;
    pthread_mutex_t lock; /* of what follows, until sealed */
    struct content *content;
    struct adapter_metric *metrics;
    size_t n_metrics, cap_metrics;
    char spoilt[65]; /* "": all metrics were numbers */
    struct adapter_note *notes;
    size_t n_notes, cap_notes;
    char *claims[CLAIMS_MAX];
    size_t n_claims;
    atomic_int sealed;
    char format[65];
    struct claas_digest state, serve; /* once sealed */
    int64_t
        put_ns; /* monotonic time its blobs were put; 0 = not yet. Of adapter_out_put's caller */
};

/* The sealed files as the ABI lists them: facts and list are the caller's arrays of n_files. */
void out_list(const struct adapter_out *o, struct claas_file *facts,
              const struct claas_file **list);

#endif
