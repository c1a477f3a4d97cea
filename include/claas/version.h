/* SPDX-License-Identifier: MIT */
/* The number of the ABI. */
#ifndef CLAAS_VERSION_H
#define CLAAS_VERSION_H

#ifdef __cplusplus
extern "C" {
#endif

/* 0.x: host and plugin must carry the same number. From 1.0 on: major equal, any minor. */
#define CLAAS_ABI_MAJOR 0u
#define CLAAS_ABI_MINOR 1u

/* As it crosses: major << 16 | minor. */
#define CLAAS_ABI (CLAAS_ABI_MAJOR << 16 | CLAAS_ABI_MINOR)

#ifdef __cplusplus
}
#endif

#endif
