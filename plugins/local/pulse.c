/* SPDX-License-Identifier: MIT */
/* One beat: yield, poll, report. */
#include "config.h"

#include "plugins/local/pulse.h"

#include "base/err.h"

int pulse_beat(struct pulse *p, struct claas_error *err)
{
    kernels_turn_yield(p->kernels);
    p->done++;
    if (!p->call) {
        return 0;
    }
    if (p->call->left_ms && p->call->left_ms(p->call) == 0) {
        return err_set(err, CLAAS_ERR_CANCELLED, NULL, "%s stopped: cancelled or out of time", p->what);
    }
    if (p->total > 0 && p->call->progress) {
        p->call->progress(p->call, p->done < p->total ? p->done : p->total, p->total, p->what);
    }
    return 0;
}
