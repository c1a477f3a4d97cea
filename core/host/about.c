/* SPDX-License-Identifier: MIT */
/* What an instance says about itself: status, model, and new values while it runs. */
#include "config.h"

#include "base/err.h"
#include "base/utf8.h"
#include "host/internal.h"

#include <stdio.h>
#include <string.h>

int host_status(struct host_instance *i, struct claas_status *out, struct claas_error *err)
{
    const struct claas_plugin *plugin = &i->module->plugin;
    struct claas_status status = { .size = sizeof status, .state = CLAAS_READY };
    if (!plugin->status) {
        *out = status;
        return 0;
    }
    struct host_use use;
    int rc = host_use_begin(&use, i, "plugin", "status", 1, HOST_QUICK, NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, plugin->status(i->self, &status), err);
    if (rc != 0) {
        return rc;
    }
    status.text[sizeof status.text - 1] = '\0';
    if (status.state < CLAAS_STARTING || status.state > CLAAS_DOWN) {
        status.state = CLAAS_DEGRADED;
        (void)snprintf(status.text, sizeof status.text, "the plugin reports a state that is none");
    }
    if (!utf8_valid(status.text, strlen(status.text))) {
        status.text[0] = '\0';
    }
    status.size = sizeof status;
    *out = status;
    return 0;
}

int host_model(struct host_instance *i, struct claas_model *out, struct claas_error *err)
{
    const struct claas_plugin *plugin = &i->module->plugin;
    struct claas_model model = { .size = sizeof model };
    struct host_use use;
    int rc =
        host_use_begin(&use, i, "plugin", "model", plugin->model != NULL, HOST_QUICK, NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, plugin->model(i->self, &model, &use.err), err);
    if (rc != 0) {
        return rc;
    }
    model.size = sizeof model;
    model.name = model.name ? model.name : "";
    model.base = model.base ? model.base : "";
    model.tokenizer = model.tokenizer ? model.tokenizer : "";
    model.n_stop = model.stop_ids ? model.n_stop : 0;
    if (!utf8_valid(model.name, strlen(model.name))) {
        return err_set(err, CLAAS_ERR_INTERNAL, "",
                       "plugin '%s' gives its model a name that is no UTF-8", i->module->name);
    }
    *out = model;
    return 0;
}

int host_reload(struct host_instance *i, struct option_values *values, struct claas_error *err)
{
    const struct claas_plugin *plugin = &i->module->plugin;
    struct host_use use;
    if (values->table != &i->module->options) {
        return err_set(err, CLAAS_ERR_INTERNAL, "",
                       "values of another table were handed to plugin '%s'", i->module->name);
    }
    int rc =
        host_use_begin(&use, i, "plugin", "reload", plugin->reload != NULL, HOST_CALL, NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, plugin->reload(i->self, values->values, &use.err), err);
    if (rc == 0) {
        pthread_mutex_lock(&i->values_lock);
        struct option_values old = i->values;
        i->values = *values;
        pthread_mutex_unlock(&i->values_lock);
        *values = (struct option_values){ 0 };
        option_values_clear(&old);
    }
    return rc;
}
