/* SPDX-License-Identifier: MIT */
/* The tile registers themselves: permission, shapes, packing and the inner loop. */
#include "config.h"

#include "kernels/cpu/tiles.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define ARCH_REQ_XCOMP_PERM 0x1023 /* of arch_prctl: the kernel must make room for the tiles in signal frames */
#define XFEATURE_XTILEDATA 18
#define HALF 256 /* floats: a packed tile of 16 x 32 bfloat16 */

struct tile_shapes {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Constant, since the compiler does not know that the instruction reads all of it. */
static const struct tile_shapes shapes = {
    .palette = 1,
    .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
    .rows = { 16, 16, 16, 16, 16, 16, 16, 16 },
};

TARGET static void tiles_begin(void)
{
    _tile_loadconfig(&shapes);
}

TARGET static void tiles_end(void)
{
    _tile_release(); /* so that the system need not save them */
}

TARGET static inline __m512 widen(__m256bh x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16));
}

/* x = hi + lo, both rounded to nearest. */
TARGET static inline void split(__m512 x, __m256bh *hi, __m256bh *lo)
{
    *hi = _mm512_cvtneps_pbh(x);
    *lo = _mm512_cvtneps_pbh(_mm512_sub_ps(x, widen(*hi)));
}

TARGET static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1);
}

TARGET static void tiles_pack_a(const float *src, size_t pitch, size_t rows, size_t depth, float *dst)
{
    __mmask16 left = first_lanes(depth);
    __mmask16 right = first_lanes(depth > 16 ? depth - 16 : 0);
    for (size_t r = 0; r < TILES_SIDE; r++) {
        __m512 x = r < rows ? _mm512_maskz_loadu_ps(left, src + r * pitch) : _mm512_setzero_ps();
        __m512 y = r < rows ? _mm512_maskz_loadu_ps(right, src + r * pitch + 16) : _mm512_setzero_ps();
        __m256bh hi[2];
        __m256bh lo[2];
        split(x, &hi[0], &lo[0]);
        split(y, &hi[1], &lo[1]);
        float *to = dst + r / 16 * HALF + r % 16 * 16;
        _mm256_store_ps(to, (__m256)hi[0]);
        _mm256_store_ps(to + 8, (__m256)hi[1]);
        _mm256_store_ps(to + 2 * HALF, (__m256)lo[0]);
        _mm256_store_ps(to + 2 * HALF + 8, (__m256)lo[1]);
    }
}

/* Two neighbours in depth share a lane. */
TARGET static inline __m512 pair(__m256bh even, __m256bh odd)
{
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)even),
                                               _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)odd), 16)));
}

TARGET static void tiles_pack_b(const float *panel, size_t pitch, size_t depth, float *dst)
{
    for (size_t k = 0; k < TILES_SIDE; k += 2) {
        for (size_t half = 0; half < 2; half++) {
            const float *at = panel + k * pitch + half * 16;
            __m512 x = k < depth ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
            __m512 y = k + 1 < depth ? _mm512_loadu_ps(at + pitch) : _mm512_setzero_ps();
            __m256bh hi[2];
            __m256bh lo[2];
            split(x, &hi[0], &lo[0]);
            split(y, &hi[1], &lo[1]);
            float *to = dst + half * HALF + k / 2 * 16;
            _mm512_store_ps(to, pair(hi[0], hi[1]));
            _mm512_store_ps(to + 2 * HALF, pair(lo[0], lo[1]));
        }
    }
}

/* sums: c of the block, row by row. */
TARGET static inline void store(const float *sums, float *c, size_t c_pitch, float alpha, int accumulate, size_t rows,
                                size_t cols)
{
    __mmask16 left = first_lanes(cols);
    __mmask16 right = first_lanes(cols > 16 ? cols - 16 : 0);
    __m512 a = _mm512_set1_ps(alpha);
    for (size_t r = 0; r < rows; r++) {
        float *to = c + r * c_pitch;
        __m512 x = _mm512_mul_ps(a, _mm512_load_ps(sums + r * TILES_SIDE));
        __m512 y = _mm512_mul_ps(a, _mm512_load_ps(sums + r * TILES_SIDE + 16));
        if (accumulate) {
            x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(left, to));
            y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(right, to + 16));
        }
        _mm512_mask_storeu_ps(to, left, x);
        _mm512_mask_storeu_ps(to + 16, right, y);
    }
}

/* Asks for the quarter of the next block of A: B stays in the first-level cache, A comes from the second. */
TARGET static inline void ask_for(const float *a)
{
    for (size_t i = 0; i < HALF; i += 16) {
        _mm_prefetch((const char *)(a + i), _MM_HINT_T0);
    }
}

/* Tiles 0 to 3 are the four quarters of c; 4 and 5 hold A, 6 and 7 hold B. */
TARGET static void tiles_multiply(size_t blocks, const float *a, const float *b, float *c, size_t c_pitch, float alpha,
                                  int accumulate, size_t rows, size_t cols)
{
    _Alignas(64) float sums[TILES_SIDE * TILES_SIDE];
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
#define FOUR_PRODUCTS() \
    do { \
        _tile_dpbf16ps(0, 4, 6); \
        _tile_dpbf16ps(1, 4, 7); \
        _tile_dpbf16ps(2, 5, 6); \
        _tile_dpbf16ps(3, 5, 7); \
    } while (0)
    for (size_t k = 0; k < blocks; k++, a += TILES_BLOCK, b += TILES_BLOCK) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + HALF, 64);
        _tile_loadd(5, a + HALF, 64);
        ask_for(a + TILES_BLOCK);
        FOUR_PRODUCTS(); /* hi hi */
        ask_for(a + TILES_BLOCK + HALF);
        _tile_loadd(6, b + 2 * HALF, 64);
        _tile_loadd(7, b + 3 * HALF, 64);
        FOUR_PRODUCTS(); /* hi lo */
        ask_for(a + TILES_BLOCK + 2 * HALF);
        _tile_loadd(4, a + 2 * HALF, 64);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + HALF, 64);
        _tile_loadd(5, a + 3 * HALF, 64);
        ask_for(a + TILES_BLOCK + 3 * HALF);
        FOUR_PRODUCTS(); /* lo hi */
    }
#undef FOUR_PRODUCTS
    _tile_stored(0, sums, TILES_SIDE * sizeof(float));
    _tile_stored(1, sums + 16, TILES_SIDE * sizeof(float));
    _tile_stored(2, sums + 16 * TILES_SIDE, TILES_SIDE * sizeof(float));
    _tile_stored(3, sums + 16 * TILES_SIDE + 16, TILES_SIDE * sizeof(float));
    store(sums, c, c_pitch, alpha, accumulate, rows, cols);
}

static int has_tiles(void)
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 22) || !(d & 1u << 24)) { /* AMX-BF16, AMX-TILE */
        return 0;
    }
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) { /* AVX512-BF16 */
        return 0;
    }
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

const struct tiles *tiles_choose(const char *isa)
{
    static const struct tiles amx = { tiles_begin, tiles_end, tiles_pack_a, tiles_pack_b, tiles_multiply };
    int wanted = !isa || strcmp(isa, "amx") == 0;
    return wanted && has_tiles() ? &amx : NULL;
}

#else

const struct tiles *tiles_choose(const char *isa)
{
    (void)isa;
    return NULL;
}

#endif
