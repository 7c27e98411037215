/* Products, for what goes from one to the next. */

#ifndef AGENTBUS_PRODUCTS_H
#define AGENTBUS_PRODUCTS_H

#include "team.h"
#include "weights.h"

#if HAS_AMX

enum {
    PANEL = 2 * LANES, /* outputs, and rows, that are multiplied at once */
};

typedef struct {
    Weight weight;      /* [outputs / PANEL, inputs / DEPTH] pairs: of [2, DEPTH / 2, LANES, 2] numbers */
    const bf16 *bias;   /* [outputs], or NULL */
    const bf16 *norm;   /* [inputs] of the inputs' norm, or NULL */
    int64_t inputs;
    int64_t outputs;
    float eps;          /* of the norm */
    int32_t gated;      /* a panel's halves are gates and what they open: half as many results */
    int32_t wide;       /* results are floats; then there is no bias, and nothing is added */
} Product;

/* What each thread of a team does of: x [rows, inputs], normed if there is a norm, times the weight,
 * plus the bias and `plus` [rows, outputs] -> out [rows, outputs], floats if they are wide. `plus` may
 * be NULL, or `out` itself. All is written when it returns. In `memory`, aligned to a line, is room for
 * as many numbers as `agentbus_room` says. */
void agentbus_share_product(const Team *team, const Product *product, const bf16 *x, bf16 *memory,
                            const bf16 *plus, void *out, int64_t rows);

/* The numbers that products with up to so many inputs need memory for. */
int64_t agentbus_room(int64_t rows, int64_t inputs, int threads);

#endif

#endif
