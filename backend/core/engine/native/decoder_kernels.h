/* The element-wise parts of a decoder layer for one precision of tensors. decoder.c includes this once for each, with
   REAL (its type), NAMED(name) (the name with its suffix), LOAD and STORE (a vector of floats from and to REALs, of
   which the first `count` exist). All sums are over vectors in a fixed order. */

void NAMED(add_norm)(const REAL *x, const REAL *delta, const REAL *weight, REAL *sum, REAL *y, int64_t rows,
                     int64_t width, float eps) {
    for (int64_t row = 0; row < rows; row++, x += width, sum += width, y += width) {
        vec squares = {0};
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t count = width - i;
            if (delta) STORE(sum + i, LOAD(x + i, count) + LOAD(delta + i, count), count);
            vec value = LOAD(sum + i, count);
            squares += value * value;
        }
        float scale = 1.0f / sqrtf(vec_sum(squares) / (float)width + eps);
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t count = width - i;
            STORE(y + i, LOAD(sum + i, count) * scale * LOAD(weight + i, count), count);
        }
        if (delta) delta += width;
    }
}

void NAMED(norm_backward)(const REAL *dy, const REAL *x, const REAL *weight, const REAL *residual, REAL *dx,
                          int64_t rows, int64_t width, float eps) {
    for (int64_t row = 0; row < rows; row++, dy += width, x += width, dx += width) {
        vec squares = {0}, products = {0};
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t count = width - i;
            vec value = LOAD(x + i, count);
            squares += value * value;
            products += value * LOAD(dy + i, count) * LOAD(weight + i, count);
        }
        float rate = 1.0f / sqrtf(vec_sum(squares) / (float)width + eps);
        float mean = vec_sum(products) / (float)width * rate * rate;
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t count = width - i;
            vec gradient = rate * (LOAD(dy + i, count) * LOAD(weight + i, count) - LOAD(x + i, count) * mean);
            if (residual) gradient += LOAD(residual + i, count);
            STORE(dx + i, gradient, count);
        }
        if (residual) residual += width;
    }
}

void NAMED(rotate)(REAL *x, const float *cosines, const float *sines, int64_t rows, int64_t heads, int64_t half,
                   float sign) {
    for (int64_t row = 0; row < rows; row++, cosines += half, sines += half)
        for (int64_t head = 0; head < heads; head++, x += 2 * half)
            for (int64_t i = 0; i < half; i += LANES) {
                int64_t count = half - i;
                vec first = LOAD(x + i, count), second = LOAD(x + half + i, count);
                vec cosine = vec_load_part(cosines + i, count), sine = vec_load_part(sines + i, count) * sign;
                STORE(x + i, first * cosine - second * sine, count);
                STORE(x + half + i, second * cosine + first * sine, count);
            }
}

void NAMED(swiglu)(const REAL *gate, const REAL *up, REAL *product, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) {
        int64_t count = size - i;
        vec g = LOAD(gate + i, count);
        STORE(product + i, g / (1.0f + vec_exp(-g)) * LOAD(up + i, count), count);
    }
}

void NAMED(swiglu_backward)(const REAL *gate, const REAL *up, const REAL *d, REAL *d_gate, REAL *d_up, REAL *product,
                            int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) {
        int64_t count = size - i;
        vec g = LOAD(gate + i, count), u = LOAD(up + i, count), gradient = LOAD(d + i, count);
        vec s = 1.0f / (1.0f + vec_exp(-g)), silu = g * s;
        STORE(d_gate + i, gradient * u * s * (1.0f + g * (1.0f - s)), count);
        STORE(d_up + i, gradient * silu, count);
        STORE(product + i, silu * u, count);
    }
}
