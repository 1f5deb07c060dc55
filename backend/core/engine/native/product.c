#include "product.h"

/* Registers hold the sums of ROWS_AT_ONCE weight rows times COLUMNS_AT_ONCE rows of x. */
#define ROWS_AT_ONCE 4
#if LANES == 16
#define COLUMNS_AT_ONCE 6 /* 24 of 32 registers */
#else
#define COLUMNS_AT_ONCE 3 /* 12 of 16 */
#endif

static inline float bfloat16_at(const void *data, int64_t at) {
    uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline __attribute__((always_inline)) vec weights_at(int kind, const void *data, int64_t at, float scale) {
    if (kind == FLOAT32) return vec_load((const float *)data + at);
    if (kind == BFLOAT16) return (vec)(vec_halves((const uint16_t *)data + at) << 16);
    return __builtin_convertvector(vec_bytes((const int8_t *)data + at), vec) * scale;
}

static inline float weight_at(int kind, const void *data, int64_t at, float scale) {
    if (kind == FLOAT32) return ((const float *)data)[at];
    if (kind == BFLOAT16) return bfloat16_at(data, at);
    return (float)((const int8_t *)data)[at] * scale;
}

/* Weights that come from memory are asked for so many rows before they are needed: the processor sees four short
   streams side by side and would not read ahead far enough. In 8 bits that is 1.7 times as fast for one row of x. */
#define AHEAD ROWS_AT_ONCE
#define CACHE_LINE 64

static inline __attribute__((always_inline)) void read_ahead(int kind, int rows, const matrix *weights, int64_t at) {
    const int64_t bytes = kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const char *group = (const char *)weights->data + (at + (r + AHEAD) * weights->width) * bytes;
#pragma GCC unroll 8
        for (int64_t byte = 0; byte < GROUP * bytes; byte += CACHE_LINE) __builtin_prefetch(group + byte);
    }
}

/* Add to the sums, column by column, what is left of a row beyond whole vectors, and the bias; write them to y. */
static inline __attribute__((always_inline)) void finish(int kind, int rows, int columns, const matrix *weights,
                                                         int64_t row, const float *sums, const float *x, float *y,
                                                         int64_t y_step, int add) {
    const int64_t width = weights->width, whole = width - width % LANES, groups = (width + GROUP - 1) / GROUP;
    for (int c = 0; c < columns; c++) {
        for (int r = 0; r < rows; r++) {
            const int64_t start = (row + r) * width;
            float total = sums[c * rows + r];
            for (int64_t k = whole; k < width; k++) {
                const float scale = kind == INT8 ? weights->scale[(row + r) * groups + k / GROUP] : 0.0f;
                total += weight_at(kind, weights->data, start + k, scale) * x[c * width + k];
            }
            float *to = y + c * y_step + row + r;
            *to = (add ? *to : 0.0f) + (total + (weights->bias ? weights->bias[row + r] : 0.0f));
        }
    }
}

/* `kind`, `rows` and `columns` are constants wherever this is inlined, so that the sums stay in registers. `fresh`: the
   weights are not in a cache yet. */
static inline __attribute__((always_inline)) void tile(int kind, int rows, int columns, const matrix *weights,
                                                       int64_t row, const float *x, float *y, int64_t y_step,
                                                       int add, int fresh) {
    const int64_t width = weights->width, groups = (width + GROUP - 1) / GROUP;
    const float *scale = kind == INT8 ? weights->scale + row * groups : NULL;
    const int64_t start = row * width, whole = width - width % LANES;
    vec sum[COLUMNS_AT_ONCE * ROWS_AT_ONCE];
#pragma GCC unroll 32
    for (int i = 0; i < columns * rows; i++) sum[i] = (vec){0};
    for (int64_t group = 0; group * GROUP < whole; group++) {
        const int64_t end = (group + 1) * GROUP < whole ? (group + 1) * GROUP : whole;
        if (fresh) read_ahead(kind, rows, weights, start + group * GROUP);
        float scales[ROWS_AT_ONCE] = {0};
        if (kind == INT8)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) scales[r] = scale[r * groups + group];
        for (int64_t k = group * GROUP; k < end; k += LANES) {
            vec weight[ROWS_AT_ONCE];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                weight[r] = weights_at(kind, weights->data, start + r * width + k, scales[r]);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) {
                vec value = vec_load(x + c * width + k);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) sum[c * rows + r] += weight[r] * value;
            }
        }
    }
    float sums[ROWS_AT_ONCE * COLUMNS_AT_ONCE + LANES];
#pragma GCC unroll 8
    for (int at = 0; at < columns * rows; at += LANES)
        vec_store(sums + at, vec_sums(sum + at, columns * rows - at < LANES ? columns * rows - at : LANES));
    finish(kind, rows, columns, weights, row, sums, x, y, y_step, add);
}

static inline __attribute__((always_inline)) void columns_of(int kind, int columns, const matrix *weights,
                                                             const float *x, float *y, int64_t y_step,
                                                             int64_t first, int64_t last, int add, int fresh) {
    int64_t row = first;
    for (; row + ROWS_AT_ONCE <= last; row += ROWS_AT_ONCE)
        tile(kind, ROWS_AT_ONCE, columns, weights, row, x, y, y_step, add, fresh);
    for (; row < last; row++)
        for (int c = 0; c < columns; c++)
            tile(kind, 1, 1, weights, row, x + c * weights->width, y + c * y_step, y_step, add, 0);
}

/* Columns outside, weight rows inside: a few rows of x stay in the first cache, a part of the weights in the second. */
static inline __attribute__((always_inline)) void product_of(int kind, const matrix *weights, const float *x,
                                                             float *y, int64_t count, int64_t y_step,
                                                             int64_t first, int64_t last, int add) {
    int64_t at = 0;
    for (; at + COLUMNS_AT_ONCE <= count; at += COLUMNS_AT_ONCE)
        columns_of(kind, COLUMNS_AT_ONCE, weights, x + at * weights->width, y + at * y_step, y_step, first, last, add,
                   at == 0);
    for (; at + 2 <= count; at += 2)
        columns_of(kind, 2, weights, x + at * weights->width, y + at * y_step, y_step, first, last, add, at == 0);
    if (at < count)
        columns_of(kind, 1, weights, x + at * weights->width, y + at * y_step, y_step, first, last, add, at == 0);
}

void product_part(const matrix *weights, const float *x, float *y, int64_t count, int64_t y_step, int64_t first,
                  int64_t last, int add) {
    switch (weights->kind) {
    case FLOAT32: product_of(FLOAT32, weights, x, y, count, y_step, first, last, add); break;
    case BFLOAT16: product_of(BFLOAT16, weights, x, y, count, y_step, first, last, add); break;
    case INT8: product_of(INT8, weights, x, y, count, y_step, first, last, add); break;
    }
}
