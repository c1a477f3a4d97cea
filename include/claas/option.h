/* SPDX-License-Identifier: MIT */
/* Options as data: one description for configuration, adapter creation and training settings. From
 * the table the host checks YAML and JSON, fills defaults, prints help and masks secrets; a plugin
 * gets values that are checked and parses nothing. All of it is since 0.1. */
#ifndef CLAAS_OPTION_H
#define CLAAS_OPTION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Types, and which member of struct claas_value holds the value. */
enum {
    CLAAS_BOOL,  /* i: 0 or 1 */
    CLAAS_INT,   /* i, and the same in d */
    CLAAS_REAL,  /* d, finite */
    CLAAS_TEXT,  /* s */
    CLAAS_LIST,  /* list, n_list: texts */
    CLAAS_PATH,  /* s: absolute */
    CLAAS_BYTES, /* i, and the same in d; written 64MiB */
    CLAAS_MS,    /* i: milliseconds, and the same in d; written 30s */
    CLAAS_JSON   /* s: compact JSON of whatever was written */
};

/* Flags of an option. */
enum {
    CLAAS_REQUIRED = 1, /* must be given */
    CLAAS_SECRET =
        2, /* TEXT without a default: s is always "", its text comes from host->secret() */
    CLAAS_RELOADABLE = 4, /* reload() takes a new value */
    CLAAS_ABOVE = 8,      /* REAL with bounds: min itself is too little */
    CLAAS_BELOW = 16      /* REAL with bounds: max itself is too much */
};

/* One row. A table ends with a null name; the distance of its rows travels beside it (option_size).
 * Everything lives as long as the module. */
struct claas_option {
    const char *name;    /* [a-z][a-z0-9_]*; nested in YAML and JSON: "teacher.url" */
    const char *def;     /* default as it would be written, or null; LIST: "a,b" */
    const char *choices; /* TEXT, LIST: "a|b|c", or null */
    const char *help;    /* one sentence */
    double min;          /* INT, REAL, BYTES, MS: bounds, which may be reached; LIST: of its length. */
    double max;          /* min > max, or both 0: unbounded */
    uint32_t type;       /* CLAAS_BOOL ... */
    uint32_t flags;      /* CLAAS_REQUIRED ... */
};

/* The values stand in the order of the table, checked, with defaults filled in. s and list are
 * never null where the type uses them: "" and an empty list when nothing was given and there is no
 * default. Borrowed for the call. Frozen. */
struct claas_value {
    const char *s;
    const char *const *list; /* n_list texts, then null */
    int64_t i;
    double d;
    uint32_t n_list;
    uint32_t given; /* 1: somebody wrote it; 0: the default */
};

#ifdef __cplusplus
}
#endif

#endif
