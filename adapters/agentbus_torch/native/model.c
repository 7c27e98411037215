/* A model at one call. The interpreter would stand between any two steps, and finds its own way
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

typedef struct {
    const Layer *layers;
    const bf16 *embedding; /* [vocabulary, hidden] */
    Product head;          /* behind the last norm; wide. Perhaps with more outputs than tokens */
    int64_t vocabulary;
    int32_t count; /* of layers */
} Model;

static void norm_heads(const Team *team, const Layer *layer, const Plan *plan, bf16 *qkv) {
    int size = plan->size, heads = plan->heads + plan->kv_heads;
    Share rows = share_of(team, plan->rows);
    for (int64_t row = rows.from; row < rows.end; row++)
        for (int head = 0; head < heads; head++) {
            bf16 *x = qkv + (row * (heads + plan->kv_heads) + head) * size;
            const bf16 *weight = layer->heads_norm + head * size;
            __m512 factor = norm_factor(x, size, layer->eps);
            for (int d = 0; d < size; d += LANES) { /* rounded twice, as transformers has it */
                narrowed(x + d, _mm512_mul_ps(widened(x + d), factor));
                narrowed(x + d, _mm512_mul_ps(widened(x + d), widened(weight + d)));
            }
        }
    await_all(team);
}

/* Copy rows by number. */
static void take(const Team *team, const bf16 *from, const int64_t *numbers, int64_t count,
                 int64_t size, bf16 *to) {
    Share rows = share_of(team, count);
    for (int64_t row = rows.from; row < rows.end; row++)
        memcpy(to + row * size, from + numbers[row] * size, size * sizeof(bf16));
    await_all(team);
}

static inline __mmask16 lanes_of(int64_t count) {
    return (__mmask16)(count < LANES ? (1 << count) - 1 : -1);
}

/* The number of the greatest of scores [count], the first of equals; `count` if one is no number. */
static int64_t best_of(const float *scores, int64_t count) {
    __m512 least = _mm512_set1_ps(-INFINITY), most = least;
    __mmask16 broken = 0;
    for (int64_t at = 0; at < count; at += LANES) {
        __m512 some = _mm512_mask_loadu_ps(least, lanes_of(count - at), scores + at);
        broken |= _mm512_cmp_ps_mask(some, some, _CMP_UNORD_Q);
        most = _mm512_max_ps(most, some);
    }
    if (broken)
        return count;
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (int64_t at = 0;; at += LANES) {
        __mmask16 lanes = lanes_of(count - at);
        __mmask16 equal = _mm512_mask_cmp_ps_mask(
            lanes, _mm512_maskz_loadu_ps(lanes, scores + at), most, _CMP_EQ_OQ);
        if (equal)
            return at + __builtin_ctz(equal);
    }
}

/* tokens [rows] -> hidden [results, hidden] of the rows `wanted` [results] and, unless that is NULL,
 * their scores [results, outputs of the head] and the best tokens [results] by them. In `memory` is
 * room for what each row is, its qkv, what it attends to, act(x), and for any product. */
void agentbus_compute(const Model *model, const Plan *plan, const int64_t *tokens, bf16 *memory,
                      const int64_t *wanted, int64_t results, bf16 *hidden, float *scores,
                      int64_t *best) {
    Meeting meeting = {0};
#pragma omp parallel num_threads(plan->threads)
    {
        Team joined = join(&meeting), *team = &joined;
        const Layer *layers = model->layers, *last = layers + model->count - 1;
        int64_t rows = plan->rows, size = model->head.inputs, heads = layers->output.inputs;
        bf16 *now = memory, *qkv = now + rows * size;
        bf16 *attended = qkv + rows * layers->qkv.outputs, *inner = attended + rows * heads;
        bf16 *others = inner + rows * layers->down.inputs;
        take(team, model->embedding, tokens, rows, size, now);
        for (const Layer *layer = layers; layer <= last; layer++) {
            agentbus_share_product(team, &layer->qkv, now, others, NULL, qkv, rows);
            if (layer->heads_norm)
                norm_heads(team, layer, plan, qkv);
            agentbus_share_attention(team, plan, (int)(layer - layers), qkv, attended);
            if (layer == last) { /* the other rows serve nobody any more */
                take(team, now, wanted, results, size, hidden);
                take(team, attended, wanted, results, heads, qkv);
                rows = results;
                attended = qkv;
                now = hidden;
            }
            agentbus_share_product(team, &layer->output, attended, others, now, now, rows);
            agentbus_share_product(team, &layer->act, now, others, NULL, inner, rows);
            agentbus_share_product(team, &layer->down, inner, others, now, now, rows);
        }
        if (scores) {
            agentbus_share_product(team, &model->head, hidden, others, NULL, scores, rows);
            Share own = share_of(team, rows);
            for (int64_t row = own.from; row < own.end; row++)
                best[row] = best_of(scores + row * model->head.outputs, model->vocabulary);
        }
    }
}

#endif
