/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/rows.h"

#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are read in place: a little-endian machine is needed"
#endif

enum { BLOCK = 32 };

static const struct {
    const char *name;
    size_t elements; /* of a block */
    size_t bytes;
} type_rows[KERNELS_TYPES] = {
    [KERNELS_F32] = { "F32", 1, 4 },        [KERNELS_F16] = { "F16", 1, 2 },
    [KERNELS_BF16] = { "BF16", 1, 2 },      [KERNELS_Q8_0] = { "Q8_0", BLOCK, 34 },
    [KERNELS_Q4_0] = { "Q4_0", BLOCK, 18 }, [KERNELS_Q4_1] = { "Q4_1", BLOCK, 20 },
};

const char *row_type_name(enum kernels_type type)
{
    return (unsigned)type < KERNELS_TYPES ? type_rows[type].name : "unknown";
}

size_t row_bytes(enum kernels_type type, size_t cols)
{
    if ((unsigned)type >= KERNELS_TYPES || cols % type_rows[type].elements != 0) {
        return 0;
    }
    return cols / type_rows[type].elements * type_rows[type].bytes;
}

static float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float row_f16_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31;
    uint32_t exponent = (h >> 10) & 31u;
    uint32_t mantissa = h & 1023u;
    if (exponent == 31) {
        return float_of_bits(sign | 0x7F800000u | mantissa << 13);
    }
    if (exponent != 0) {
        return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    }
    /* Subnormal: a multiple of 2^-24, exact in float32. */
    float value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
}

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void row_f16(const uint8_t *p, size_t cols, float *out)
{
    for (size_t i = 0; i < cols; i++) {
        out[i] = row_f16_value(read_u16(p + 2 * i));
    }
}

static void row_bf16(const uint8_t *p, size_t cols, float *out)
{
    for (size_t i = 0; i < cols; i++) {
        out[i] = float_of_bits((uint32_t)read_u16(p + 2 * i) << 16);
    }
}

static void row_q8_0(const uint8_t *p, size_t cols, float *out)
{
    for (size_t b = 0; b < cols / BLOCK; b++, p += 34) {
        float d = row_f16_value(read_u16(p));
        for (size_t j = 0; j < BLOCK; j++) {
            out[b * BLOCK + j] = d * (float)(int8_t)p[2 + j];
        }
    }
}

static void row_q4_0(const uint8_t *p, size_t cols, float *out)
{
    for (size_t b = 0; b < cols / BLOCK; b++, p += 18) {
        float d = row_f16_value(read_u16(p));
        for (size_t j = 0; j < BLOCK / 2; j++) {
            out[b * BLOCK + j] = d * (float)((p[2 + j] & 15) - 8);
            out[b * BLOCK + BLOCK / 2 + j] = d * (float)((p[2 + j] >> 4) - 8);
        }
    }
}

static void row_q4_1(const uint8_t *p, size_t cols, float *out)
{
    for (size_t b = 0; b < cols / BLOCK; b++, p += 20) {
        float d = row_f16_value(read_u16(p));
        float m = row_f16_value(read_u16(p + 2));
        for (size_t j = 0; j < BLOCK / 2; j++) {
            out[b * BLOCK + j] = d * (float)(p[4 + j] & 15) + m;
            out[b * BLOCK + BLOCK / 2 + j] = d * (float)(p[4 + j] >> 4) + m;
        }
    }
}

void row_floats(enum kernels_type type, const void *data, size_t cols, float *out)
{
    switch (type) {
    case KERNELS_F32:
        memcpy(out, data, cols * sizeof *out);
        break;
    case KERNELS_F16:
        row_f16(data, cols, out);
        break;
    case KERNELS_BF16:
        row_bf16(data, cols, out);
        break;
    case KERNELS_Q8_0:
        row_q8_0(data, cols, out);
        break;
    case KERNELS_Q4_0:
        row_q4_0(data, cols, out);
        break;
    case KERNELS_Q4_1:
        row_q4_1(data, cols, out);
        break;
    default:
        memset(out, 0, cols * sizeof *out);
    }
}

void row_of_segment(const struct kernels_segment *s, size_t row, float *out)
{
    size_t at = s->order ? s->order[row] : row;
    row_floats(s->type, (const uint8_t *)s->data + at * row_bytes(s->type, s->cols), s->cols, out);
}
