/* SPDX-License-Identifier: MIT */
/* The tile registers themselves: permission, shapes, packing and the inner loop. */
#include "config.h"

#include "kernels/cpu/tiles.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl")))
#define ARCH_REQ_XCOMP_PERM 0x1023 /* of arch_prctl: the kernel must make room for the tiles in signal frames */
#define XFEATURE_XTILEDATA 18
#define TILE 256  /* floats that a tile takes: 16 x 64 digits */
#define HALF (3 * TILE) /* of a block: hi, mid and lo of 16 rows of A or 16 columns of B */
#define GREATEST 0x7f7f70 /* three digits of -128 to 127 go to 0x7f7f7f; the rest is for rounding */

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

TARGET static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1);
}

/* ---- packing ---- */

/* The size of floats as whole numbers that compare alike, NaN above infinity above all others. */
TARGET static inline __m512i size_bits(__m512 x)
{
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

/* From the greatest size of a row: what its whole numbers are multiplied with when all is done (their hi digit counting
 * 1), and what makes them. Below 2^-100 they just keep fewer bits. */
TARGET static inline __m512 scales_of(__m512i size, __m512 *inverse)
{
    const __m512 least = _mm512_set1_ps(0x1p-100f);
    __m512 greatest = _mm512_max_ps(_mm512_castsi512_ps(size), least);
    __mmask16 finite = _mm512_cmplt_epu32_mask(size, _mm512_set1_epi32(0x7f800000));
    *inverse = _mm512_maskz_div_ps(finite, _mm512_set1_ps(GREATEST), greatest);
    __m512 scale = _mm512_mul_ps(greatest, _mm512_set1_ps(0x1p16f / GREATEST));
    return _mm512_mask_blend_ps(finite, _mm512_set1_ps(NAN), scale);
}

/* Whole numbers with their three digits in the low bytes: 128 is added to each digit and taken off it again, without a
 * carry, so that all are between -128 and 127. */
TARGET static inline __m512i whole(__m512 x, __m512 inverse)
{
    const __m512i carry = _mm512_set1_epi32(0x808080);
    __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
    return _mm512_xor_si512(_mm512_add_epi32(v, carry), carry);
}

/* A row of each of the three tiles, lane by lane the digits of w[0] to w[3]. */
TARGET static inline void store_digits(const __m512i w[4], float *dst)
{
    const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaa;
    const __mmask32 odd_words = 0xaaaaaaaa;
    __m512i even[2]; /* lo and hi of two numbers in turn */
    __m512i odd[2];  /* mid */
    for (int i = 0; i < 2; i++) {
        even[i] = _mm512_mask_blend_epi8(odd_bytes, w[2 * i], _mm512_slli_epi32(w[2 * i + 1], 8));
        odd[i] = _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi32(w[2 * i], 8), w[2 * i + 1]);
    }
    __m512i hi = _mm512_mask_blend_epi16(odd_words, _mm512_srli_epi32(even[0], 16), even[1]);
    __m512i mid = _mm512_mask_blend_epi16(odd_words, odd[0], _mm512_slli_epi32(odd[1], 16));
    __m512i lo = _mm512_mask_blend_epi16(odd_words, even[0], _mm512_slli_epi32(even[1], 16));
    _mm512_store_si512(dst, hi);
    _mm512_store_si512(dst + TILE, mid);
    _mm512_store_si512(dst + 2 * TILE, lo);
}

static float *tile_row(float *dst, size_t depth_at, size_t row)
{
    return dst + TILES_SIDE + depth_at / TILES_DEPTH * TILES_BLOCK + row / 16 * HALF + row % 16 * 16;
}

TARGET static inline __m512 load_part(const float *row, size_t at, size_t depth)
{
    return at < depth ? _mm512_maskz_loadu_ps(first_lanes(depth - at), row + at) : _mm512_setzero_ps();
}

/* Four digits that share a lane are 16 apart in depth, in A as in B. */
TARGET static void tiles_pack_a(const float *src, size_t pitch, size_t rows, size_t depth, float *dst)
{
    memset(dst, 0, TILES_SIDE * sizeof *dst);
    for (size_t r = 0; r < TILES_SIDE; r++) {
        const float *row = src + r * pitch;
        size_t n = r < rows ? depth : 0;
        __m512i size = _mm512_setzero_si512();
        for (size_t k = 0; k < n; k += 16) {
            size = _mm512_max_epu32(size, size_bits(load_part(row, k, n)));
        }
        __m512 inverse;
        size = _mm512_set1_epi32((int)_mm512_reduce_max_epu32(size));
        dst[r] = _mm512_cvtss_f32(scales_of(size, &inverse));
        for (size_t k = 0; k < depth; k += TILES_DEPTH) {
            __m512i w[4];
            for (size_t i = 0; i < 4; i++) {
                w[i] = whole(load_part(row, k + 16 * i, n), inverse);
            }
            store_digits(w, tile_row(dst, k, r));
        }
    }
}

TARGET static void pack_columns(const float *panel, size_t pitch, size_t depth, size_t half, float *dst)
{
    const float *at = panel + half * 16;
    __m512i size = _mm512_setzero_si512();
    for (size_t k = 0; k < depth; k++) {
        size = _mm512_max_epu32(size, size_bits(_mm512_loadu_ps(at + k * pitch)));
    }
    __m512 inverse;
    _mm512_store_ps(dst + half * 16, scales_of(size, &inverse));
    for (size_t k = 0; k < depth; k += TILES_DEPTH) {
        for (size_t j = 0; j < 16; j++) {
            __m512i w[4];
            for (size_t i = 0; i < 4; i++) {
                size_t row = k + 16 * i + j;
                w[i] = whole(row < depth ? _mm512_loadu_ps(at + row * pitch) : _mm512_setzero_ps(), inverse);
            }
            store_digits(w, tile_row(dst, k, half * 16 + j));
        }
    }
}

TARGET static void tiles_pack_b(const float *panel, size_t pitch, size_t depth, float *dst)
{
    pack_columns(panel, pitch, depth, 0, dst);
    pack_columns(panel, pitch, depth, 1, dst);
}

/* ---- multiplying ---- */

/* Of a 16 x 16 part of c: hi hi; hi mid + mid hi; hi lo + mid mid + lo hi. */
struct sums {
    _Alignas(64) int32_t of[3][16][16];
};

TARGET static inline void store(const struct sums *s, const float *a_scales, const float *b_scales, float *c,
                                size_t c_pitch, float alpha, int accumulate, size_t rows, size_t cols)
{
    const __m512 digit = _mm512_set1_ps(0x1p-8f);
    __mmask16 lanes = first_lanes(cols);
    __m512 scales = _mm512_mul_ps(_mm512_set1_ps(alpha), _mm512_load_ps(b_scales));
    for (size_t r = 0; r < rows; r++, c += c_pitch) {
        __m512 hi = _mm512_cvtepi32_ps(_mm512_load_si512(s->of[0][r]));
        __m512 mid = _mm512_cvtepi32_ps(_mm512_load_si512(s->of[1][r]));
        __m512 lo = _mm512_cvtepi32_ps(_mm512_load_si512(s->of[2][r]));
        __m512 x = _mm512_fmadd_ps(_mm512_fmadd_ps(lo, digit, mid), digit, hi);
        x = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(a_scales[r])), scales);
        if (accumulate) {
            x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(lanes, c));
        }
        _mm512_mask_storeu_ps(c, lanes, x);
    }
}

TARGET static inline void ask_for(const float *tile)
{
    for (size_t i = 0; i < TILE; i += 16) {
        _mm_prefetch((const char *)(tile + i), _MM_HINT_T0);
    }
}

/* Tiles 0 to 2 are the sums, 3 to 5 the digits of A, 6 and 7 those of B: no digit is loaded twice. `ask`: whether to ask for
 * the next block of A, which comes from the second-level cache; B stays in the first. */
TARGET static inline void multiply_quarter(size_t depth, const float *a, const float *b, int ask, struct sums *s)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (size_t k = 0; k < depth; k += TILES_DEPTH, a += TILES_BLOCK, b += TILES_BLOCK) {
        _tile_loadd(3, a, 64);
        _tile_loadd(6, b, 64);
        _tile_dpbssd(0, 3, 6); /* hi hi */
        if (ask) {
            ask_for(a + TILES_BLOCK);
        }
        _tile_loadd(4, a + TILE, 64);
        _tile_dpbssd(1, 4, 6); /* mid hi */
        if (ask) {
            ask_for(a + TILES_BLOCK + TILE);
        }
        _tile_loadd(5, a + 2 * TILE, 64);
        _tile_dpbssd(2, 5, 6); /* lo hi */
        if (ask) {
            ask_for(a + TILES_BLOCK + 2 * TILE);
        }
        _tile_loadd(7, b + TILE, 64);
        _tile_dpbssd(1, 3, 7); /* hi mid */
        _tile_dpbssd(2, 4, 7); /* mid mid */
        _tile_loadd(6, b + 2 * TILE, 64);
        _tile_dpbssd(2, 3, 6); /* hi lo */
    }
    _tile_stored(0, s->of[0], 64);
    _tile_stored(1, s->of[1], 64);
    _tile_stored(2, s->of[2], 64);
}

TARGET static void tiles_multiply(size_t depth, const float *a, const float *b, float *c, size_t c_pitch, float alpha,
                                  int accumulate, size_t rows, size_t cols)
{
    struct sums s;
    for (size_t i = 0; i < rows; i += 16) {
        for (size_t j = 0; j < cols; j += 16) {
            multiply_quarter(depth, a + TILES_SIDE + i / 16 * HALF, b + TILES_SIDE + j / 16 * HALF, j == 0, &s);
            store(&s, a + i, b + j, c + i * c_pitch + j, c_pitch, alpha, accumulate, rows - i < 16 ? rows - i : 16,
                  cols - j);
        }
    }
}

static int has_tiles(void)
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 24) || !(d & 1u << 25)) { /* AMX-TILE, AMX-INT8 */
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
