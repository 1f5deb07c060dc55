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

#endif
