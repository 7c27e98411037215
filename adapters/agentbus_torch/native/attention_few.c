/* Attention of few rows, as in decoding: keys and values are read where they lie, once, in less time
 * than it takes to lay them out for products. */

#include "attention.h"

enum {
    QUADS = LANES / 4, /* of keys, in a vector of scores */
    AHEAD = 1024,      /* numbers that are fetched before they are needed */
};

/* A row and what it has seen so far. Queries and sums are kept in pairs of vectors: 16 numbers in even
 * places of 32, then those in odd ones, as a vector of bfloat16 numbers is widened in two operations. */
typedef struct {
    float query[MAX_SIZE] __attribute__((aligned(64)));
    float sums[MAX_SIZE] __attribute__((aligned(64)));
    float weights[BLOCK] __attribute__((aligned(64))); /* of a block's values */
    float most, weight, faded;
    int32_t position, from, to;
} Row;

static inline __m512 even(__m512i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)); }

static inline __m512 odd(__m512i bits) {
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
}

/* Add up four vectors so far that four lanes are left of each. */
static inline __m512 in_quads(const __m512 in[4]) {
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(in[0], in[1]), _mm512_unpackhi_ps(in[0], in[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(in[2], in[3]), _mm512_unpackhi_ps(in[2], in[3]));
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

static inline __m512 halved(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* The products of ROWS queries with a block's keys -> scores [ROWS, BLOCK] */
static inline __attribute__((always_inline)) void score(const int ROWS, const Row *rows,
                                                        const bf16 *keys, int size,
                                                        __m512 scores[][BLOCK / LANES]) {
    for (int j = 0; j < BLOCK / LANES; j++) {
        __m512 quads[FEW][QUADS];
#pragma GCC unroll 4
        for (int quad = 0; quad < QUADS; quad++, keys += 4 * size) {
            for (int d = 0; d < 4 * size; d += LINE)
                _mm_prefetch((const char *)(keys + AHEAD + d), _MM_HINT_T0);
            __m512 acc[FEW][4];
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    acc[r][i] = _mm512_setzero_ps();
            for (int d = 0; d < size; d += 2 * LANES)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    __m512i bits = _mm512_loadu_si512(keys + i * size + d);
                    __m512 low = even(bits), high = odd(bits);
#pragma GCC unroll 4
                    for (int r = 0; r < ROWS; r++) {
                        acc[r][i] = _mm512_fmadd_ps(low, _mm512_load_ps(rows[r].query + d), acc[r][i]);
                        acc[r][i] = _mm512_fmadd_ps(
                            high, _mm512_load_ps(rows[r].query + d + LANES), acc[r][i]);
                    }
                }
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++)
                quads[r][quad] = in_quads(acc[r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
            scores[r][j] =
                halved(halved(quads[r][0], quads[r][1]), halved(quads[r][2], quads[r][3]));
    }
}

/* Turn a row's products into weights, and count them. */
static inline void weigh(Row *row, __m512 scores[BLOCK / LANES], float scale, int masked) {
    enum { PARTS = BLOCK / LANES };
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int j = 0; j < PARTS; j++) {
        if (masked)
            scores[j] = seen_of(scores[j], j * LANES, row->from, row->to);
        most = _mm512_max_ps(most, scores[j]);
    }
    float now = fmaxf(row->most, scale * _mm512_reduce_max_ps(most));
    /* a row that saw nothing so far has no maximum to subtract */
    float base = now == -INFINITY ? 0.0f : now;
    row->faded = _mm512_cvtss_f32(exp2_ps(_mm512_set1_ps(row->most - base)));
#pragma GCC unroll 4
    for (int j = 0; j < PARTS; j++) {
        __m512 x = _mm512_fmsub_ps(scores[j], _mm512_set1_ps(scale), _mm512_set1_ps(base));
        x = exp2_ps(x);
        sum = _mm512_add_ps(sum, x);
        _mm512_store_ps(row->weights + j * LANES, x);
    }
    row->most = now;
    row->weight = row->weight * row->faded + _mm512_reduce_add_ps(sum);
}

/* Add a block's values by their weights to the sums of ROWS rows. */
static inline __attribute__((always_inline)) void add_values(const int ROWS, Row *rows,
                                                             const bf16 *values, int size) {
    for (int d = 0; d < size; d += 2 * LANES) {
        __m512 sums[FEW][2];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            __m512 faded = _mm512_set1_ps(rows[r].faded);
            sums[r][0] = _mm512_mul_ps(_mm512_load_ps(rows[r].sums + d), faded);
            sums[r][1] = _mm512_mul_ps(_mm512_load_ps(rows[r].sums + d + LANES), faded);
        }
        for (int key = 0; key < BLOCK; key++) {
            const bf16 *from = values + key * size + d;
            __m512i bits = _mm512_loadu_si512(from);
            _mm_prefetch((const char *)(from + AHEAD), _MM_HINT_T0);
            __m512 low = even(bits), high = odd(bits);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                __m512 weight = _mm512_set1_ps(rows[r].weights[key]);
                sums[r][0] = _mm512_fmadd_ps(low, weight, sums[r][0]);
                sums[r][1] = _mm512_fmadd_ps(high, weight, sums[r][1]);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            _mm512_store_ps(rows[r].sums + d, sums[r][0]);
            _mm512_store_ps(rows[r].sums + d + LANES, sums[r][1]);
        }
    }
}

static inline __attribute__((always_inline)) void meet(const int ROWS, Row *rows, const bf16 *keys,
                                                       const bf16 *values, int size, float scale,
                                                       int masked) {
    __m512 scores[FEW][BLOCK / LANES];
    score(ROWS, rows, keys, size, scores);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
        weigh(&rows[r], scores[r], scale, masked);
    add_values(ROWS, rows, values, size);
}

static void meet_rows(int count, Row *rows, const bf16 *keys, const bf16 *values, int size,
                      float scale, int masked) {
    switch (count) {
    case 4: meet(4, rows, keys, values, size, scale, masked); break;
    case 3: meet(3, rows, keys, values, size, scale, masked); break;
    case 2: meet(2, rows, keys, values, size, scale, masked); break;
    case 1: meet(1, rows, keys, values, size, scale, masked); break;
    }
}

static void begin(Row *row, const bf16 *query, int position, int size) {
    row->most = -INFINITY;
    row->weight = 0.0f;
    row->position = position;
    memset(row->sums, 0, size * sizeof(float));
    for (int d = 0; d < size; d += 2 * LANES) {
        __m512i bits = _mm512_loadu_si512(query + d);
        _mm512_store_ps(row->query + d, even(bits));
        _mm512_store_ps(row->query + d + LANES, odd(bits));
    }
}

static void end(const Row *row, int size, float *result) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    result[0] = row->most;
    result[1] = row->weight;
    for (int d = 0; d < size; d += 2 * LANES) {
        __m512 evens = _mm512_load_ps(row->sums + d), odds = _mm512_load_ps(row->sums + d + LANES);
        float *to = result + STATE + d;
        _mm512_storeu_ps(to, _mm512_permutex2var_ps(evens, low, odds));
        _mm512_storeu_ps(to + LANES, _mm512_permutex2var_ps(evens, high, odds));
    }
}

/* A block of which `count` positions are known, the others being 0. */
static const bf16 *filled_up(const bf16 *known, int count, int size, bf16 *block) {
    size_t numbers = (size_t)count * size;
    memcpy(block, known, numbers * sizeof(bf16));
    memset(block + numbers, 0, ((size_t)BLOCK * size - numbers) * sizeof(bf16));
    return block;
}

void agentbus_attend_few(const Plan *plan, const bf16 *qkv, const bf16 *window, const Piece *piece,
                         int kv_head, int sees) {
    bf16 spare[2][BLOCK * MAX_SIZE] __attribute__((aligned(64)));
    Row rows[FEW];
    int size = plan->size, group = plan->heads / plan->kv_heads, least = INT32_MAX;
    int64_t row_stride = (int64_t)(plan->heads + 2 * plan->kv_heads) * size;
    const bf16 *keys = window + piece->slot * plan->slot_stride + kv_head * plan->head_stride;
    const bf16 *values = keys + plan->kv_heads * plan->head_stride;
    int total = piece->rows * group;
    for (int r = 0; r < total; r++) {
        int row = plan->members[piece->member + r / group], head = kv_head * group + r % group;
        begin(&rows[r], qkv + row * row_stride + head * size, plan->positions[row], size);
        least = rows[r].position < least ? rows[r].position : least;
    }
    for (int first = piece->first; first < piece->end; first += BLOCK) {
        int count = piece->end - first < BLOCK ? piece->end - first : BLOCK;
        int all = sees_all(first, count, least, sees), any = all;
        for (int r = 0; r < total && !all; r++) {
            find_seen(first, count, rows[r].position, sees, &rows[r].from, &rows[r].to);
            any |= rows[r].from < rows[r].to;
        }
        if (!any)
            continue;
        const bf16 *some_keys = keys + (int64_t)first * size;
        const bf16 *some_values = values + (int64_t)first * size;
        if (count < BLOCK) { /* what is behind them may be anything */
            some_keys = filled_up(some_keys, count, size, spare[0]);
            some_values = filled_up(some_values, count, size, spare[1]);
        }
        meet_rows(total, rows, some_keys, some_values, size, plan->scale, !all);
    }
    float *result = results_of(plan, piece, kv_head);
    for (int r = 0; r < total; r++, result += stride_of(size))
        end(&rows[r], size, result);
}
