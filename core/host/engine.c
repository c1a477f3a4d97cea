/* SPDX-License-Identifier: MIT */
/* The host's half of the engine contract. */
#include "config.h"

#include "base/err.h"
#include "host/internal.h"

static const char *const no_names[] = { NULL };

/* Asks the plugin and keeps what it said. */
static int info_ask(struct host_instance *i, struct host_use *use, struct claas_error *err)
{
    struct claas_engine_info told = { .size = sizeof told };
    struct option_table settings = { 0 };
    struct option_table creation = { 0 };
    int rc = host_use_result(use, i->engine->info(i->self, &told, &use->err), err);
    if (rc == 0) {
        rc = option_table_copy(told.settings, told.option_size, i->module->name, &settings, err);
    }
    if (rc == 0) {
        rc = option_table_copy(told.creation, told.option_size, i->module->name, &creation, err);
    }
    if (rc != 0) {
        option_table_clear(&settings);
        return rc;
    }
    pthread_mutex_lock(&i->lock);
    if (!i->have_info) {
        i->have_info = 1;
        i->settings = settings;
        i->creation = creation;
        i->info =
            (struct host_engine_info){ .parallel = told.parallel ? told.parallel : 1,
                                       .objectives = told.objectives ? told.objectives : no_names,
                                       .formats = told.formats ? told.formats : no_names,
                                       .exports = told.exports ? told.exports : no_names,
                                       .settings = &i->settings,
                                       .creation = &i->creation };
        settings = (struct option_table){ 0 };
        creation = (struct option_table){ 0 };
    }
    pthread_mutex_unlock(&i->lock);
    /* Another thread was first: its answer stays. */
    option_table_clear(&settings);
    option_table_clear(&creation);
    return 0;
}

int host_engine_info(struct host_instance *i, const struct host_engine_info **out,
                     struct claas_error *err)
{
    struct host_use use;
    int rc =
        host_use_begin(&use, i, "engine", "info", i->engine->info != NULL, HOST_QUICK, NULL, err);
    if (rc != 0) {
        return rc;
    }
    pthread_mutex_lock(&i->lock);
    int have = i->have_info;
    pthread_mutex_unlock(&i->lock);
    rc = have ? 0 : info_ask(i, &use, err);
    host_use_leave(&use);
    if (rc == 0) {
        *out = &i->info;
    }
    return rc;
}

int host_engine_create(struct host_instance *i, const struct claas_create *create,
                       struct claas_out *out, const struct claas_call *call,
                       struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "engine", "create", i->engine->create != NULL, HOST_CALL, call,
                            err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->engine->create(i->self, create, out, call, &use.err), err);
}

int host_engine_train(struct host_instance *i, const struct claas_train *train,
                      struct claas_out *out, const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc =
        host_use_begin(&use, i, "engine", "train", i->engine->train != NULL, HOST_CALL, call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->engine->train(i->self, train, out, call, &use.err), err);
}

int host_engine_check(struct host_instance *i, const struct claas_version *version,
                      const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc =
        host_use_begin(&use, i, "engine", "check", i->engine->check != NULL, HOST_CALL, call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->engine->check(i->self, version, call, &use.err), err);
}

int host_engine_convert(struct host_instance *i, const struct claas_version *version,
                        const char *format, struct claas_out *out, const struct claas_call *call,
                        struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "engine", "convert", i->engine->convert != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->engine->convert(i->self, version, format, out, call, &use.err),
                        err);
}

int host_engine_release(struct host_instance *i, const char *const *uris, uint32_t n,
                        const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "engine", "release", i->engine->release != NULL, HOST_CALL,
                            call, err);
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->engine->release(i->self, uris, n, call, &use.err), err);
}
