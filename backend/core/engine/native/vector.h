/* Vectors of the width that this variant is compiled for, through the vector extensions of GCC and Clang:
   the same source becomes SSE2, AVX2, AVX-512 or NEON code, without intrinsics. */
#ifndef TUNESMITH_VECTOR_H
#define TUNESMITH_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

/* The sum over the lanes: halves are added until one is left, the same order in every call. */
static inline float vec_sum(vec value) {
    float lane[LANES];
    vec_store(lane, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

#endif
