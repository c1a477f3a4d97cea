/* SPDX-License-Identifier: MIT */
/* One step at a time: the others wait, each as long as its call has time. */
#include "config.h"

#include "plugins/local/instance.h"

#include "base/err.h"

#include <errno.h>
#include <time.h>

int instance_step_begin(struct instance *self, const struct claas_call *call, struct claas_error *err)
{
    for (;;) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail for this clock */
        until.tv_sec++;
        if (pthread_mutex_clocklock(&self->training, CLOCK_MONOTONIC, &until) != ETIMEDOUT) {
            return 0;
        }
        if (call && call->left_ms && call->left_ms(call) == 0) {
            return err_set(err, CLAAS_ERR_CANCELLED, NULL, "the step was called off while it waited for another one");
        }
    }
}

void instance_step_end(struct instance *self)
{
    pthread_mutex_unlock(&self->training);
}
