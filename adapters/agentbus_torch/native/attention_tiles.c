/* Attention in tiles of AMX.
 *
 * Scores are computed transposed, [keys, queries]: keys and queries are then multiplied as they lie,
 * and a query's maximum and sum are taken across vectors, not within them. So are the sums of values,
 * [size, queries].
 */

#include "attention.h"

#if HAS_AMX



/* Queries that are met at once, in as much memory as their results take. */
typedef struct {
    float most[LANES];       /* the maximum of each one's scores */
    float weight[LANES];     /* and the sum of its weights */
    int32_t position[LANES]; /* -1 where there is no query */
    float none[13][LANES];
    float rest[];            /* sums [size, LANES], and queries [size / 2, LANES] in pairs */
} Group;

static inline float *sums_of(Group *group) { return group->rest; }

static inline int32_t *queries_of(Group *group, int size) {
    return (int32_t *)(group->rest + size * LANES);
}

/* A block of keys and values, as they are multiplied. */
typedef struct {
    /* pairs of a number and that of the next position */
    int32_t values[MAX_SIZE][BLOCK / 2] __attribute__((aligned(64)));
    bf16 spare[BLOCK][MAX_SIZE]; /* for keys where there are too few; products of others are hidden */
    const bf16 *keys;            /* [BLOCK, size] */
} Block;

static void lay_block(Block *block, const bf16 *keys, const bf16 *values, int count, int size) {
    int32_t pairs[LANES][MAX_SIZE] __attribute__((aligned(64)));
    block->keys = keys;
    if (count < BLOCK) {
        memcpy(block->spare, keys, (size_t)count * size * sizeof(bf16));
        block->keys = block->spare[0];
    }
    for (int half = 0; half < BLOCK; half += 2 * LANES) {
        for (int key = half; key < half + 2 * LANES; key += 2)
            for (int d = 0; d < size; d += 2 * LANES)
                pair_up(values + (int64_t)key * size + d, count - key, size,
                        pairs[(key - half) / 2] + d);
        for (int d = 0; d < size; d += LANES) {
            __m512i in[LANES];
            for (int pair = 0; pair < LANES; pair++)
                in[pair] = _mm512_load_si512(pairs[pair] + d);
            transpose16(in, block->values[d] + half / 2, BLOCK / 2);
        }
    }
}

/* Of what a group's queries see of `count` keys from `first` on, find the first key and that behind
 * the last; 0 if it is nothing. */
static inline int see(const Group *group, int first, int count, int sees, __m512i *from,
                      __m512i *to) {
    const __m512i none = _mm512_setzero_si512();
    __m512i ahead = _mm512_sub_epi32(_mm512_load_si512(group->position), _mm512_set1_epi32(first - 1));
    *to = _mm512_min_epi32(_mm512_max_epi32(ahead, none), _mm512_set1_epi32(count));
    *from = sees ? _mm512_max_epi32(_mm512_sub_epi32(ahead, _mm512_set1_epi32(sees)), none) : none;
    return _mm512_cmplt_epi32_mask(*from, *to) != 0;
}

/* Multiply a block's keys with a group's queries. */
static FOR_AMX void score(const Block *block, Group *group, int size, float scores[BLOCK][LANES]) {
    const int32_t *queries = queries_of(group, size);
    int64_t stride = size * (int64_t)sizeof(bf16), apart = LANES * size;
    settle_memory();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int d = 0; d < size; d += 2 * LANES) {
        const bf16 *keys = block->keys + d;
        _tile_loadd(6, queries + d / 2 * LANES, 64);
        _tile_loadd(4, keys, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, keys + apart, stride);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(4, keys + 2 * apart, stride);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(5, keys + 3 * apart, stride);
        _tile_dpbf16ps(3, 5, 6);
    }
    _tile_stored(0, scores[0], 64);
    _tile_stored(1, scores[LANES], 64);
    _tile_stored(2, scores[2 * LANES], 64);
    _tile_stored(3, scores[3 * LANES], 64);
    settle_memory();
}

/* Hide the keys that queries do not see. */
static inline void hide(float scores[BLOCK][LANES], __m512i from, __m512i to) {
    for (int key = 0; key < BLOCK; key++) {
        __m512i number = _mm512_set1_epi32(key);
        __mmask16 seen = _mm512_cmpge_epi32_mask(number, from) & _mm512_cmplt_epi32_mask(number, to);
        __m512 score = _mm512_load_ps(scores[key]);
        _mm512_store_ps(scores[key],
                        _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, score));
    }
}

/* 2 to the power of x <= 0, to within 1e-4 of it: a weight is rounded to 8 bits anyway (as in
 * FlashAttention-4). 1 at 0, 0 at -infinity. */
static inline __m512 weight_of(__m512 x) {
    __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 y = _mm512_set1_ps(7.7067055e-2f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.2764498e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9511682e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, x); /* of whose exponent it takes the whole part itself */
}

/* Turn scores to weights, in pairs of a key's and the next one's, and count them in the group. */
static inline void weigh(Group *group, float scores[BLOCK][LANES], float scale, int size,
                         int32_t weights[BLOCK / 2][LANES]) {
    const __m512i mixed = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 highest[4] = {none, none, none, none}, sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int key = 0; key < BLOCK; key += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            highest[i] = _mm512_max_ps(highest[i], _mm512_load_ps(scores[key + i]));
    __m512 before = _mm512_load_ps(group->most);
    __m512 now = _mm512_max_ps(_mm512_max_ps(highest[0], highest[1]),
                               _mm512_max_ps(highest[2], highest[3]));
    now = _mm512_max_ps(before, _mm512_mul_ps(now, _mm512_set1_ps(scale)));
    /* a query that saw nothing so far has no maximum to subtract */
    __m512 base = _mm512_mask_mov_ps(now, _mm512_cmp_ps_mask(now, none, _CMP_EQ_OQ),
                                     _mm512_setzero_ps());
    for (int key = 0; key < BLOCK; key += 2) {
        __m512 one = weight_of(
            _mm512_fmsub_ps(_mm512_load_ps(scores[key]), _mm512_set1_ps(scale), base));
        __m512 other = weight_of(
            _mm512_fmsub_ps(_mm512_load_ps(scores[key + 1]), _mm512_set1_ps(scale), base));
        sum[0] = _mm512_add_ps(sum[0], one);
        sum[1] = _mm512_add_ps(sum[1], other);
        vec both = {.pairs = _mm512_cvtne2ps_pbh(other, one)};
        _mm512_store_si512(weights[key / 2], _mm512_permutexvar_epi16(mixed, both.bits));
    }
    __m512 faded = exp2_ps(_mm512_sub_ps(before, base));
    __m512 weight = _mm512_fmadd_ps(_mm512_load_ps(group->weight), faded,
                                    _mm512_add_ps(sum[0], sum[1]));
    _mm512_store_ps(group->weight, weight);
    _mm512_store_ps(group->most, now);
    if (!_mm512_cmp_ps_mask(faded, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ))
        return;
    float *sums = sums_of(group);
    for (int d = 0; d < size; d++, sums += LANES)
        _mm512_store_ps(sums, _mm512_mul_ps(_mm512_load_ps(sums), faded));
}

/* Add a block's values by their weights to a group's sums. */
static FOR_AMX void add_values(const Block *block, Group *group, int size,
                               int32_t weights[BLOCK / 2][LANES]) {
    float *sums = sums_of(group);
    settle_memory();
    _tile_loadd(6, weights[0], 64);
    _tile_loadd(7, weights[LANES], 64);
    for (int d = 0; d < size; d += 2 * LANES, sums += 2 * LANES * LANES) {
        const int32_t *values = block->values[d], *lower = block->values[d + LANES];
        _tile_loadd(0, sums, 64);
        _tile_loadd(4, values, BLOCK * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(1, sums + LANES * LANES, 64);
        _tile_loadd(5, lower, BLOCK * 2);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(4, values + LANES, BLOCK * 2);
        _tile_dpbf16ps(0, 4, 7);
        _tile_loadd(5, lower + LANES, BLOCK * 2);
        _tile_dpbf16ps(1, 5, 7);
        _tile_stored(0, sums, 64);
        _tile_stored(1, sums + LANES * LANES, 64);
    }
    settle_memory();
}

/* Take up to LANES queries of `many` numbers each from where they lie. */
static void begin(Group *group, const bf16 *const queries[LANES], const int32_t positions[LANES],
                  int size) {
    _mm512_store_ps(group->most, _mm512_set1_ps(-INFINITY));
    _mm512_store_ps(group->weight, _mm512_setzero_ps());
    memcpy(group->position, positions, sizeof group->position);
    memset(sums_of(group), 0, (size_t)size * LANES * sizeof(float));
    for (int pair = 0; pair < size / 2; pair += LANES) {
        __m512i in[LANES];
        for (int q = 0; q < LANES; q++)
            in[q] = queries[q] ? _mm512_loadu_si512(queries[q] + 2 * pair) : _mm512_setzero_si512();
        transpose16(in, queries_of(group, size) + pair * LANES, LANES);
    }
}

/* Write a group's first `count` results as the vectors' way has them. */
static void end(const Group *group, int count, int size, float *results) {
    float sums[LANES][MAX_SIZE] __attribute__((aligned(64)));
    float most[LANES], weight[LANES];
    memcpy(most, group->most, sizeof most);
    memcpy(weight, group->weight, sizeof weight);
    for (int d = 0; d < size; d += LANES) {
        __m512i in[LANES];
        for (int i = 0; i < LANES; i++)
            in[i] = _mm512_load_si512(group->rest + (d + i) * LANES);
        transpose16(in, (int32_t *)(sums[0] + d), MAX_SIZE);
    }
    for (int q = 0; q < count; q++, results += stride_of(size)) {
        results[0] = most[q];
        results[1] = weight[q];
        memcpy(results + STATE, sums[q], size * sizeof(float));
    }
}

/* Fetch so many lines of keys that are needed later, and of the values that are `apart` from them. */
static inline void fetch(const bf16 *keys, int lines, int64_t apart) {
    for (int line = 0; line < lines; line++, keys += LINE) {
        _mm_prefetch((const char *)keys, _MM_HINT_T1);
        _mm_prefetch((const char *)(keys + apart), _MM_HINT_T1);
    }
}

void agentbus_attend_in_tiles(const Plan *plan, const bf16 *qkv, const bf16 *window,
                              const Piece *piece, int kv_head, int sees) {
    int size = plan->size, share = plan->heads / plan->kv_heads, total = piece->rows * share;
    int64_t row_stride = (int64_t)(plan->heads + 2 * plan->kv_heads) * size;
    const bf16 *keys = window + piece->slot * plan->slot_stride + kv_head * plan->head_stride;
    const bf16 *values = keys + plan->kv_heads * plan->head_stride;
    const int32_t *members = plan->members + piece->member;
    float *results = results_of(plan, piece, kv_head);
    float spare[(STATE + MAX_SIZE + MAX_SIZE / 2) * LANES] __attribute__((aligned(64)));
    float scores[BLOCK][LANES] __attribute__((aligned(64)));
    int32_t weights[BLOCK / 2][LANES] __attribute__((aligned(64)));
    Block block;
    int count = (total + LANES - 1) / LANES, least = INT32_MAX;
    Group *groups[count];
    for (int g = 0; g < count; g++) {
        const bf16 *queries[LANES] = {0};
        int32_t positions[LANES];
        for (int q = 0; q < LANES; q++) {
            int number = g * LANES + q, row = number < total ? members[number / share] : 0;
            positions[q] = -1;
            if (number >= total)
                continue;
            positions[q] = plan->positions[row];
            least = positions[q] < least ? positions[q] : least;
            queries[q] = qkv + row * row_stride + (kv_head * share + number % share) * size;
        }
        int whole = (g + 1) * LANES <= total;
        groups[g] = (Group *)(whole ? results + (int64_t)g * LANES * stride_of(size) : spare);
        begin(groups[g], queries, positions, size);
    }
    int lines = (BLOCK * size / LINE + count - 1) / count;
    shape_tiles((const uint8_t[8]){LANES, LANES, LANES, LANES, LANES, LANES, LANES, LANES});
    for (int first = piece->first; first < piece->end; first += BLOCK) {
        int many = piece->end - first < BLOCK ? piece->end - first : BLOCK;
        int laid = 0, all = sees_all(first, many, least, sees);
        const bf16 *next = keys + (int64_t)(first + BLOCK) * size;
        for (int g = 0; g < count; g++) {
            __m512i from = _mm512_setzero_si512(), to = from;
            if (first + BLOCK < piece->end)
                fetch(next + g * lines * LINE, lines, values - keys);
            if (!all && !see(groups[g], first, many, sees, &from, &to))
                continue;
            if (!laid) {
                int64_t at = (int64_t)first * size;
                lay_block(&block, keys + at, values + at, many, size);
                laid = 1;
            }
            score(&block, groups[g], size, scores);
            if (!all)
                hide(scores, from, to);
            weigh(groups[g], scores, plan->scale, size, weights);
            add_values(&block, groups[g], size, weights);
        }
    }
    leave_tiles();
    for (int g = 0; g < count; g++) {
        int some = total - g * LANES < LANES ? total - g * LANES : LANES;
        end(groups[g], some, size, results + (int64_t)g * LANES * stride_of(size));
    }
}

#endif
