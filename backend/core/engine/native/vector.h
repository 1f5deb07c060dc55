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

/* The sum over the lanes: halves are added until one is left, the same order in every call. */
static inline float vec_sum(vec value) {
    float lane[LANES];
    vec_store(lane, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

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
