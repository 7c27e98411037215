/* A model's layers at one call. The interpreter would stand between any two steps, and finds its own way
 * slowly once weights have passed through the caches: on a CPU of 2 cores that is a tenth of a small
 * model's time for a token.
 */

#include "attention.h"
#include "products.h"

#if HAS_AMX

typedef struct {
    Product qkv;
    Product output;
    Product act;
    Product down;
    const bf16 *heads_norm; /* [heads + kv_heads, size] of the norms of queries and keys, or NULL */
    float eps;              /* of these */
} Layer;

static void norm_heads(const Layer *layer, const Plan *plan, bf16 *qkv) {
    int size = plan->size, heads = plan->heads + plan->kv_heads;
#pragma omp for schedule(static)
    for (int row = 0; row < plan->rows; row++)
        for (int head = 0; head < heads; head++) {
            bf16 *x = qkv + ((int64_t)row * (heads + plan->kv_heads) + head) * size;
            const bf16 *weight = layer->heads_norm + head * size;
            __m512 factor = norm_factor(x, size, layer->eps);
            for (int d = 0; d < size; d += LANES) { /* rounded twice, as transformers has it */
                narrowed(x + d, _mm512_mul_ps(widened(x + d), factor));
                narrowed(x + d, _mm512_mul_ps(widened(x + d), widened(weight + d)));
            }
        }
}

/* Copy rows by number. */
static void take(const bf16 *from, const int64_t *numbers, int64_t count, int64_t size, bf16 *to) {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < count; row++)
        memcpy(to + row * size, from + numbers[row] * size, size * sizeof(bf16));
}

/* x [rows, hidden], which is overwritten -> out [results, hidden]: of the rows `wanted` [results]. In
 * `memory` is room for each row's qkv, what it attends to, act(x), and the inputs of any product in
 * whole tiles. */
void agentbus_compute(const Layer *layers, int32_t count, const Plan *plan, bf16 *x, bf16 *memory,
                      const int64_t *wanted, int64_t results, bf16 *out) {
#pragma omp parallel num_threads(plan->threads)
    {
        int64_t rows = plan->rows, hidden = layers->qkv.inputs, heads = layers->output.inputs;
        bf16 *qkv = memory, *attended = qkv + rows * layers->qkv.outputs;
        bf16 *inner = attended + rows * heads, *laid = inner + rows * layers->down.inputs;
        bf16 *now = x;
        for (int number = 0; number < count; number++) {
            const Layer *layer = layers + number;
            agentbus_share_product(&layer->qkv, now, laid, NULL, qkv, rows);
            if (layer->heads_norm)
                norm_heads(layer, plan, qkv);
            agentbus_share_attention(plan, number, qkv, attended);
            if (number + 1 == count) { /* the other rows serve nobody any more */
                take(x, wanted, results, hidden, out);
                take(attended, wanted, results, heads, qkv);
                rows = results;
                attended = qkv;
                now = out;
            }
            agentbus_share_product(&layer->output, attended, laid, now, now, rows);
            agentbus_share_product(&layer->act, now, laid, NULL, inner, rows);
            agentbus_share_product(&layer->down, inner, laid, now, now, rows);
        }
    }
}

#endif
