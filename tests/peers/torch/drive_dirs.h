/* SPDX-License-Identifier: MIT */
/* Versions of adapters that are plain directories, to read from and to write to: what the host makes of a storage, for
 * a program that has none. */
#ifndef PEERS_DRIVE_DIRS_H
#define PEERS_DRIVE_DIRS_H

#include "base/json.h"

#include <claas/adapter.h>

enum { DRIVE_FILES = 16 };

struct drive_version {
    struct claas_version abi;
    const char *dir;
    char path[4096];
    struct claas_file files[DRIVE_FILES];
    const struct claas_file *list[DRIVE_FILES];
};

/* dir stays the caller's and must outlive it. */
int drive_version_open(struct drive_version *v, const char *dir, struct claas_error *err);

struct drive_out {
    struct claas_out abi;
    const char *dir;
    cJSON *metrics;
};

/* dir exists and is empty; metrics, an object, takes the numbers that the engine tells. Both stay the caller's. */
void drive_out_open(struct drive_out *out, const char *dir, cJSON *metrics);

#endif
