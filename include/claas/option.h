/* SPDX-License-Identifier: MIT */
/* Options as data: one description for configuration, adapter creation and training settings. */
#ifndef CLAAS_OPTION_H
#define CLAAS_OPTION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLAAS_BOOL, CLAAS_INT, CLAAS_REAL, CLAAS_TEXT, CLAAS_LIST, CLAAS_PATH, CLAAS_BYTES, CLAAS_MS, CLAAS_JSON };
enum { CLAAS_REQUIRED = 1, CLAAS_SECRET = 2, CLAAS_RELOADABLE = 4 };
struct claas_option {              /* tables end with a null name; their stride travels beside them (option_size) */
    const char *name, *def, *choices, *help;      /* nested YAML: "teacher.url"; anything richer: CLAAS_JSON */
    double      min, max;                         /* min > max: unbounded */
    uint32_t    type, flags;
};
struct claas_value {               /* frozen; values stand in the order of the option table, checked, defaults filled */
    const char *s; const char *const *list; int64_t i; double d; uint32_t n_list, given;
};

#ifdef __cplusplus
}
#endif

#endif
