/* Vectors of the width that this variant is compiled for, through the vector extensions of GCC and Clang:
   the same source becomes SSE2, AVX2, AVX-512 or NEON code. Intrinsics stand only where compilers make many
   instructions of what the processor does in one. */
#ifndef TUNESMITH_VECTOR_H
#define TUNESMITH_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));

static inline vec vec_load(const float *from) {
    vec value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void vec_store(float *to, vec value) { memcpy(to, &value, sizeof value); }

static inline vec vec_set(float value) { return (vec){0} + value; }

/* Whole numbers of 8 or 16 bits at `from` as lanes of 32 bits: signed bytes; halves without a sign. */
static inline ivec vec_bytes(const int8_t *from) {
#if defined(__AVX512F__)
    return (ivec)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
    return (ivec)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
    int8_t __attribute__((vector_size(LANES))) value;
    memcpy(&value, from, sizeof value);
    return __builtin_convertvector(value, ivec);
#endif
}

static inline uvec vec_halves(const uint16_t *from) {
#if defined(__AVX512F__)
    return (uvec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__AVX2__)
    return (uvec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
#else
    uint16_t __attribute__((vector_size(2 * LANES))) value;
    memcpy(&value, from, sizeof value);
    return __builtin_convertvector(value, uvec);
#endif
}

#if defined(__clang__)
#define VEC_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VEC_PICK(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* One step of a sum over lanes: where `a` and `b` consist of blocks of 2 * width lanes, the halves of each block are
   added, those of `a` first. */
static inline vec vec_add_halves(vec a, vec b, int width) {
#if LANES == 16
    if (width == 8)
        return VEC_PICK(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               VEC_PICK(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    if (width == 4)
        return VEC_PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               VEC_PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    if (width == 2)
        return VEC_PICK(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
               VEC_PICK(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return VEC_PICK(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           VEC_PICK(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LANES == 8
    if (width == 4)
        return VEC_PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + VEC_PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    if (width == 2)
        return VEC_PICK(a, b, 0, 1, 4, 5, 8, 9, 12, 13) + VEC_PICK(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
    return VEC_PICK(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + VEC_PICK(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    if (width == 2) return VEC_PICK(a, b, 0, 1, 4, 5) + VEC_PICK(a, b, 2, 3, 6, 7);
    return VEC_PICK(a, b, 0, 2, 4, 6) + VEC_PICK(a, b, 1, 3, 5, 7);
#endif
}

/* The sums over the lanes of `count` vectors, LANES at most, as the first lanes of one: in each, halves are added until
   one lane is left, the same order for any number of vectors. `count` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) vec vec_sums(const vec *values, int count) {
    vec left[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) left[i] = i < count ? values[i] : (vec){0};
#pragma GCC unroll 4
    for (int width = LANES / 2; width > 0; width /= 2) {
        count = (count + 1) / 2;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            left[i] = i < count ? vec_add_halves(left[2 * i], left[2 * i + 1], width) : (vec){0};
    }
    return left[0];
}

/* The sum over the lanes. */
static inline float vec_sum(vec value) { return vec_sums(&value, 1)[0]; }

/* e^x with an error of at most 2 units in the last place: 2^n e^r, |r| <= ln(2) / 2, e^r by its Taylor series.
   Below -87 the result is 0, above 88 infinite; what is not a number stays so. */
static inline vec vec_exp(vec x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number in the low bits */
    ivec low = x < -87.0f, high = x > 88.0f;
    vec safe = (vec)((ivec)x & ~(low | high));
    vec shifted = safe * 1.44269504088896341f + shift;
    ivec whole = (ivec)shifted - (ivec)vec_set(shift);
    vec n = shifted - shift;
    vec r = safe - n * 0.693359375f + n * 2.12194440e-4f;
    vec sum = vec_set(1.0f / 5040.0f);
    const float terms[] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
    for (int i = 0; i < 7; i++) sum = sum * r + terms[i];
    vec power = (vec)((whole + 127) << 23);
    vec result = sum * power;
    return (vec)(((ivec)result & ~(low | high)) | (high & (ivec)vec_set(INFINITY)));
}

#endif
