/* The element-wise parts of a decoder layer; what each computes is said by its twin in ../elementwise.py. */
#include "vector.h"

static inline vec vec_load_part(const float *from, int64_t count) {
    if (count >= LANES) return vec_load(from);
    vec value = {0};
    memcpy(&value, from, sizeof(float) * (size_t)count);
    return value;
}

static inline void vec_store_part(float *to, vec value, int64_t count) {
    memcpy(to, &value, sizeof(float) * (size_t)(count >= LANES ? LANES : count));
}

/* bfloat16 is the upper half of a float32. */
typedef uint16_t bfloat16;
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));

static inline vec wide_load(const bfloat16 *from, int64_t count) {
    hvec half = {0};
    memcpy(&half, from, sizeof(bfloat16) * (size_t)(count >= LANES ? LANES : count));
    return (vec)(__builtin_convertvector(half, uvec) << 16);
}

/* Rounds to the nearest, to even between two; what is no number stays so. */
static inline void wide_store(bfloat16 *to, vec value, int64_t count) {
    uvec bits = (uvec)value, odd = (bits >> 16) & 1;
    uvec no_number = (uvec)(value != value);
    bits = ((bits + 0x7fff + odd) & ~no_number) | (no_number & 0x7fc00000);
    hvec half = __builtin_convertvector(bits >> 16, hvec);
    memcpy(to, &half, sizeof(bfloat16) * (size_t)(count >= LANES ? LANES : count));
}

static inline vec vec_pick(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

#define REAL float
#define NAMED(name) name##_f32
#define LOAD vec_load_part
#define STORE vec_store_part
#include "decoder_kernels.h"
#undef REAL
#undef NAMED
#undef LOAD
#undef STORE
#define REAL bfloat16
#define NAMED(name) name##_b16
#define LOAD wide_load
#define STORE wide_store
#include "decoder_kernels.h"

static inline float vec_max(vec value) {
    float most = value[0];
    for (int i = 1; i < LANES; i++)
        if (value[i] > most || value[i] != value[i]) most = value[i];
    return most;
}

void causal_softmax_f32(float *scores, int64_t matrices, int64_t queries, int64_t keys, int64_t first, float scale) {
    for (int64_t matrix = 0; matrix < matrices; matrix++)
        for (int64_t query = 0; query < queries; query++, scores += keys) {
            int64_t seen = first + query + 1 < keys ? first + query + 1 : keys;
            vec most = vec_set(-INFINITY), sum = {0};
            for (int64_t i = 0; i < seen; i += LANES) {
                vec value = vec_load_part(scores + i, seen - i);
                if (seen - i < LANES)
                    for (int64_t j = seen - i; j < LANES; j++) value[j] = -INFINITY;
                most = vec_pick((value > most) | (value != value), value, most);
            }
            float top = vec_max(most) * scale;
            for (int64_t i = 0; i < seen; i += LANES) {
                vec value = vec_exp(vec_load_part(scores + i, seen - i) * scale - top);
                vec_store_part(scores + i, value, seen - i);
                sum += vec_load_part(scores + i, seen - i);
            }
            float share = 1.0f / vec_sum(sum);
            for (int64_t i = 0; i < seen; i += LANES)
                vec_store_part(scores + i, vec_load_part(scores + i, seen - i) * share, seen - i);
            memset(scores + seen, 0, sizeof(float) * (size_t)(keys - seen));
        }
}

void causal_softmax_backward_f32(const float *p, float *dp, int64_t matrices, int64_t queries, int64_t keys,
                                 int64_t first, float scale) {
    for (int64_t matrix = 0; matrix < matrices; matrix++)
        for (int64_t query = 0; query < queries; query++, p += keys, dp += keys) {
            int64_t seen = first + query + 1 < keys ? first + query + 1 : keys;
            vec sum = {0};
            for (int64_t i = 0; i < seen; i += LANES)
                sum += vec_load_part(p + i, seen - i) * vec_load_part(dp + i, seen - i);
            float mean = vec_sum(sum);
            for (int64_t i = 0; i < seen; i += LANES) {
                vec value = vec_load_part(dp + i, seen - i) - mean;
                vec_store_part(dp + i, value * vec_load_part(p + i, seen - i) * scale, seen - i);
            }
            memset(dp + seen, 0, sizeof(float) * (size_t)(keys - seen));
        }
}
