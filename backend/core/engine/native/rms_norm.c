#include "vector.h"

/* y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, for rows of `width` floats. */
void rms_norm(const float *x, const float *weight, float *y, int64_t rows, int64_t width, float eps) {
    for (int64_t row = 0; row < rows; row++, x += width, y += width) {
        vec squares = {0};
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) {
            vec value = vec_load(x + i);
            squares += value * value;
        }
        float sum = vec_sum(squares);
        for (; i < width; i++) sum += x[i] * x[i];
        float scale = 1.0f / sqrtf(sum / (float)width + eps);
        for (i = 0; i + LANES <= width; i += LANES)
            vec_store(y + i, vec_load(x + i) * scale * vec_load(weight + i));
        for (; i < width; i++) y[i] = x[i] * scale * weight[i];
    }
}
