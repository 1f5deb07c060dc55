/* One pass of a Llama-like model over rows of single tokens, each at a position of a sequence with its own cache.

   Several rows may belong to one sequence, as when a prompt is read: all keys and values of a layer are written before
   any row attends, and a row attends up to its own position. */
#include "pool.h"
#include "product.h"

void rms_norm(const float *x, const float *weight, float *y, int64_t rows, int64_t width, float eps);

enum { SILU, GELU_TANH };

#define LOWERED 3 /* products of one input at most: queries, keys, values */

typedef struct {
    matrix query, key, value, output, gate, up, down;
    const float *input_norm, *attended_norm; /* [hidden] */
    const float *query_norm, *key_norm;      /* [head width] or NULL */
    int64_t rotates;                         /* whether queries and keys get rotary positions */
} layer;

typedef struct {
    const layer *layers;
    int64_t depth, hidden, heads, kv_heads, head_width, inner, activation;
    float eps, attention_scale, embedding_scale;
    matrix embedding, head;
    const float *norm; /* [hidden] */
    int64_t rank;      /* the largest of an adapter beside a matrix; 0 if there is none */
} model;

typedef struct {
    int64_t count;             /* rows */
    const int64_t *tokens;     /* [count] */
    const int64_t *positions;  /* [count] */
    float *const *caches;      /* [count]: the cache of the row's sequence, [depth, 2, kv heads, capacity, head width] */
    const int64_t *capacities; /* [count] */
    const float *cosines, *sines; /* [positions, head width] */
    int64_t asked;             /* rows whose logits are wanted */
    const int64_t *asked_rows; /* [asked] */
    float *logits;             /* [asked, vocabulary] */
    float *x, *normed, *queries, *keys, *values, *attended, *gated, *upped; /* [count, width of each] */
    float *scores;             /* [MOST_THREADS, longest] */
    int64_t longest;
    float *lowered;            /* [LOWERED, count, rank]: down . x of the products of one input */
} batch;

typedef struct {
    const model *m;
    const batch *b;
    const layer *now;
    int64_t depth;
    const float *from, *norm;
    float *to;
    int64_t chunk; /* weight rows in an item of a product */
    int64_t queries, keys; /* items of each */
    const matrix *lowering[LOWERED];
} task;

static int64_t items(int64_t rows, int64_t chunk) { return (rows + chunk - 1) / chunk; }

/* Parts small enough that no thread waits long for another, and large enough to be worth taking. */
static int64_t chunk_of(int64_t rows, int threads) {
    int64_t chunk = threads < 2 ? 64 : rows / (threads * 8);
    chunk = chunk < 8 ? 8 : chunk > 64 ? 64 : chunk;
    return chunk / 4 * 4;
}

/* `number`: the place of the product among those of its input, see lower. */
static void multiply(const task *t, const matrix *weights, const float *x, float *y, int64_t item, int number,
                     int add) {
    const int64_t first = item * t->chunk, rows = weights->rows, count = t->b->count;
    const int64_t last = first + t->chunk < rows ? first + t->chunk : rows;
    product_part(weights, x, y, count, rows, first, last, add);
    if (weights->up)
        product_part(weights->up, t->b->lowered + number * count * t->m->rank, y, count, rows, first, last, 1);
}

#define LOWER_CHUNK 4

static void lower_part(void *given, int64_t item, int thread) {
    (void)thread;
    const task *t = given;
    const int64_t each = items(t->m->rank, LOWER_CHUNK), number = item / each;
    const matrix *down = t->lowering[number]->down;
    const int64_t first = item % each * LOWER_CHUNK;
    if (!down || first >= down->rows) return;
    const int64_t last = first + LOWER_CHUNK < down->rows ? first + LOWER_CHUNK : down->rows;
    product_part(down, t->from, t->b->lowered + number * t->b->count * t->m->rank, t->b->count, down->rows, first,
                 last, 0);
}

/* Compute down . x for the adapters beside products of one input x; the products add up . (down . x) afterwards. */
static void lower(int threads, task *t, const float *x, int count, const matrix *a, const matrix *b,
                  const matrix *c) {
    const matrix *given[LOWERED] = {a, b, c};
    int adapted = 0;
    for (int i = 0; i < count; i++) adapted |= (t->lowering[i] = given[i])->down != NULL;
    t->from = x;
    if (adapted) pool_run(threads, lower_part, t, count * items(t->m->rank, LOWER_CHUNK));
}

static void embed(void *given, int64_t row, int thread) {
    (void)thread;
    const task *t = given;
    const matrix *table = &t->m->embedding;
    float *x = t->b->x + row * t->m->hidden;
    const int64_t start = t->b->tokens[row] * t->m->hidden;
    for (int64_t i = 0; i < t->m->hidden; i++) {
        if (table->kind == BFLOAT16) {
            const uint32_t bits = (uint32_t)((const uint16_t *)table->data)[start + i] << 16;
            memcpy(x + i, &bits, sizeof bits);
        } else {
            x[i] = ((const float *)table->data)[start + i];
        }
        x[i] *= t->m->embedding_scale;
    }
}

static void normalise(void *given, int64_t row, int thread) {
    (void)thread;
    const task *t = given;
    const int64_t hidden = t->m->hidden;
    rms_norm(t->from + row * hidden, t->norm, t->to + row * hidden, 1, hidden, t->m->eps);
}

static void project(void *given, int64_t item, int thread) {
    (void)thread;
    const task *t = given;
    const batch *b = t->b;
    if (item < t->queries)
        multiply(t, &t->now->query, b->normed, b->queries, item, 0, 0);
    else if (item < t->queries + t->keys)
        multiply(t, &t->now->key, b->normed, b->keys, item - t->queries, 1, 0);
    else
        multiply(t, &t->now->value, b->normed, b->values, item - t->queries - t->keys, 2, 0);
}

static void rotate(float *head, const float *cosines, const float *sines, int64_t width) {
    const int64_t half = width / 2;
    for (int64_t i = 0; i < half; i++) {
        const float left = head[i], right = head[i + half];
        head[i] = left * cosines[i] - right * sines[i];
        head[i + half] = right * cosines[i + half] + left * sines[i + half];
    }
}

/* Normalise and rotate the queries and keys of a row, and write its keys and values into the cache. */
static void place(void *given, int64_t row, int thread) {
    (void)thread;
    const task *t = given;
    const model *m = t->m;
    const batch *b = t->b;
    const int64_t width = m->head_width, position = b->positions[row], capacity = b->capacities[row];
    float *queries = b->queries + row * m->heads * width, *keys = b->keys + row * m->kv_heads * width;
    const float *values = b->values + row * m->kv_heads * width;
    const float *cosines = b->cosines + position * width, *sines = b->sines + position * width;
    if (t->now->query_norm) rms_norm(queries, t->now->query_norm, queries, m->heads, width, m->eps);
    if (t->now->key_norm) rms_norm(keys, t->now->key_norm, keys, m->kv_heads, width, m->eps);
    if (t->now->rotates) {
        for (int64_t head = 0; head < m->heads; head++) rotate(queries + head * width, cosines, sines, width);
        for (int64_t head = 0; head < m->kv_heads; head++) rotate(keys + head * width, cosines, sines, width);
    }
    float *cache = b->caches[row] + t->depth * 2 * m->kv_heads * capacity * width;
    for (int64_t head = 0; head < m->kv_heads; head++) {
        float *key = cache + (head * capacity + position) * width;
        float *value = key + m->kv_heads * capacity * width;
        memcpy(key, keys + head * width, width * sizeof *key);
        memcpy(value, values + head * width, width * sizeof *value);
    }
}

static float dot(const float *a, const float *b, int64_t width) {
    vec sum = {0};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) sum += vec_load(a + i) * vec_load(b + i);
    float total = vec_sum(sum);
    for (; i < width; i++) total += a[i] * b[i];
    return total;
}

/* scores[i] becomes e^(scores[i] - largest); their sum is returned. */
static float exponentials(float *scores, int64_t count) {
    float largest = scores[0];
    for (int64_t i = 1; i < count; i++) largest = scores[i] > largest ? scores[i] : largest;
    vec sum = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const vec value = vec_exp(vec_load(scores + i) - largest);
        vec_store(scores + i, value);
        sum += value;
    }
    float total = vec_sum(sum);
    for (; i < count; i++) total += scores[i] = expf(scores[i] - largest);
    return total;
}

static void attend(void *given, int64_t item, int thread) {
    const task *t = given;
    const model *m = t->m;
    const batch *b = t->b;
    const int64_t row = item / m->heads, head = item % m->heads, width = m->head_width;
    const int64_t length = b->positions[row] + 1, capacity = b->capacities[row];
    const int64_t shared = head / (m->heads / m->kv_heads);
    const float *query = b->queries + (row * m->heads + head) * width;
    const float *keys = b->caches[row] + ((t->depth * 2 * m->kv_heads + shared) * capacity) * width;
    const float *values = keys + m->kv_heads * capacity * width;
    float *scores = b->scores + thread * b->longest, *to = b->attended + (row * m->heads + head) * width;
    int64_t seen = 0;
    for (; width % LANES == 0 && seen + LANES <= length; seen += LANES) {
        vec sum[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) sum[i] = (vec){0};
        for (int64_t k = 0; k < width; k += LANES) {
            const vec part = vec_load(query + k);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) sum[i] += part * vec_load(keys + (seen + i) * width + k);
        }
        vec_store(scores + seen, vec_sums(sum, LANES) * m->attention_scale);
    }
    for (; seen < length; seen++) scores[seen] = dot(query, keys + seen * width, width) * m->attention_scale;
    const float scale = 1.0f / exponentials(scores, length);
    int64_t at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) {
        vec sum[4] = {{0}};
        for (int64_t i = 0; i < length; i++)
#pragma GCC unroll 4
            for (int part = 0; part < 4; part++)
                sum[part] += vec_load(values + i * width + at + part * LANES) * scores[i];
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) vec_store(to + at + part * LANES, sum[part] * scale);
    }
    for (; at + LANES <= width; at += LANES) {
        vec sum = {0};
        for (int64_t i = 0; i < length; i++) sum += vec_load(values + i * width + at) * scores[i];
        vec_store(to + at, sum * scale);
    }
    for (; at < width; at++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < length; i++) sum += values[i * width + at] * scores[i];
        to[at] = sum * scale;
    }
}

static void add_attended(void *given, int64_t item, int thread) {
    (void)thread;
    const task *t = given;
    multiply(t, &t->now->output, t->b->attended, t->b->x, item, 0, 1);
}

static inline vec activated(int64_t activation, vec x) {
    if (activation == SILU) return x / (vec_exp(-x) + 1.0f);
    const vec inner = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
    return x * (1.0f - 1.0f / (vec_exp(inner * 2.0f) + 1.0f)); /* 0.5 x (1 + tanh(inner)) */
}

/* gated = activation(gate x) * (up x), for some of its columns. */
static void gate_and_up(void *given, int64_t item, int thread) {
    (void)thread;
    const task *t = given;
    const batch *b = t->b;
    const int64_t inner = t->m->inner, first = item * t->chunk;
    const int64_t last = first + t->chunk < inner ? first + t->chunk : inner;
    multiply(t, &t->now->gate, b->normed, b->gated, item, 0, 0);
    multiply(t, &t->now->up, b->normed, b->upped, item, 1, 0);
    for (int64_t row = 0; row < b->count; row++) {
        float *gated = b->gated + row * inner, *upped = b->upped + row * inner;
        int64_t i = first;
        for (; i + LANES <= last; i += LANES)
            vec_store(gated + i, activated(t->m->activation, vec_load(gated + i)) * vec_load(upped + i));
        for (; i < last; i++) {
            float lane[LANES];
            vec_store(lane, activated(t->m->activation, vec_set(gated[i])));
            gated[i] = lane[0] * upped[i];
        }
    }
}

static void add_down(void *given, int64_t item, int thread) {
    (void)thread;
    const task *t = given;
    multiply(t, &t->now->down, t->b->gated, t->b->x, item, 0, 1);
}

static void pick(void *given, int64_t index, int thread) {
    (void)thread;
    const task *t = given;
    const int64_t hidden = t->m->hidden;
    rms_norm(t->b->x + t->b->asked_rows[index] * hidden, t->m->norm, t->b->normed + index * hidden, 1, hidden,
             t->m->eps);
}

static void name_tokens(void *given, int64_t item, int thread) {
    (void)thread;
    const task *t = given;
    const matrix *head = &t->m->head; /* an adapter beside it is not supported */
    const int64_t first = item * t->chunk, last = first + t->chunk < head->rows ? first + t->chunk : head->rows;
    product_part(head, t->b->normed, t->b->logits, t->b->asked, head->rows, first, last, 0);
}

void forward(const model *m, const batch *b, int64_t wanted_threads) {
    const int threads = pool_begin((int)wanted_threads);
    task t = {.m = m, .b = b};
    const int64_t width = m->head_width;
    pool_run(threads, embed, &t, b->count);
    for (t.depth = 0; t.depth < m->depth; t.depth++) {
        t.now = &m->layers[t.depth];
        t.from = b->x, t.to = b->normed, t.norm = t.now->input_norm;
        pool_run(threads, normalise, &t, b->count);
        lower(threads, &t, b->normed, 3, &t.now->query, &t.now->key, &t.now->value);
        t.chunk = chunk_of((m->heads + 2 * m->kv_heads) * width, threads);
        t.queries = items(m->heads * width, t.chunk), t.keys = items(m->kv_heads * width, t.chunk);
        pool_run(threads, project, &t, t.queries + 2 * t.keys);
        pool_run(threads, place, &t, b->count);
        pool_run(threads, attend, &t, b->count * m->heads);
        lower(threads, &t, b->attended, 1, &t.now->output, NULL, NULL);
        t.chunk = chunk_of(m->hidden, threads);
        pool_run(threads, add_attended, &t, items(m->hidden, t.chunk));
        t.from = b->x, t.norm = t.now->attended_norm;
        pool_run(threads, normalise, &t, b->count);
        lower(threads, &t, b->normed, 2, &t.now->gate, &t.now->up, NULL);
        t.chunk = chunk_of(m->inner, threads);
        pool_run(threads, gate_and_up, &t, items(m->inner, t.chunk));
        lower(threads, &t, b->gated, 1, &t.now->down, NULL, NULL);
        t.chunk = chunk_of(m->hidden, threads);
        pool_run(threads, add_down, &t, items(m->hidden, t.chunk));
    }
    if (b->asked) {
        pool_run(threads, pick, &t, b->asked);
        t.chunk = chunk_of(m->head.rows, threads);
        pool_run(threads, name_tokens, &t, items(m->head.rows, t.chunk));
    }
    pool_end(threads);
}
