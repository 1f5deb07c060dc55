/* A frozen matrix and its product with rows of floats.

   Every output is one sum, added up in the same order however many rows there are and whichever thread computes it:
   its bits depend on nothing but its row and its weights. */
#ifndef TUNESMITH_PRODUCT_H
#define TUNESMITH_PRODUCT_H

#include "vector.h"

enum { FLOAT32, BFLOAT16, INT8 };

#define GROUP 64 /* weights of a row that share a scale, in INT8 */

typedef struct matrix {
    const void *data;   /* [rows, width] */
    const float *scale; /* INT8: [rows, width / GROUP rounded up] */
    const float *bias;  /* [rows] or NULL */
    int64_t rows, width, kind;
    const struct matrix *down, *up; /* an adapter beside it, which adds up . (down . x): [rank, width], [rows, rank] */
} matrix;

/* y[i * y_step + r] = (or +=, if `add`) weights[r] . x[i] + bias[r], for `count` rows x[i] of `width` floats,
   and the weight rows r from `first` to `last`. An adapter beside the weights is not looked at. */
void product_part(const matrix *weights, const float *x, float *y, int64_t count, int64_t y_step, int64_t first,
                  int64_t last, int add);

#endif
