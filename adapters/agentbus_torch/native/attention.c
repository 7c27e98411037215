/* Attention.
 *
 * It is computed in tiles with a running maximum and sum, as in FlashAttention
 * (https://arxiv.org/abs/2205.14135); what rows see is split into pieces that are computed apart and
 * merged, as in Flash-Decoding, so that few sequences keep all cores busy and a prefix that several
 * sequences share is read once for all.
 */

#include "attention.h"

enum {
    GROUPS = 4, /* vectors of a block */
    TILE = 6,   /* query rows that are multiplied at once: 24 accumulators */
};

/* keys [count, size] to [size / 2][BLOCK]: each key's pairs of neighbours, which a product takes at
 * once; what is behind the last key is 0. */
static inline void lay_keys(const bf16 *keys, int count, int size, int32_t *out) {
    for (int key = 0; key < BLOCK; key += LANES)
        for (int pair = 0; pair < size / 2; pair += LANES) {
            __m512i in[16];
            for (int i = 0; i < LANES; i++)
                in[i] = key + i < count
                            ? _mm512_loadu_si512(keys + (int64_t)(key + i) * size + 2 * pair)
                            : _mm512_setzero_si512();
            transpose16(in, out + pair * BLOCK + key, BLOCK);
        }
}

/* values [count, size] to [BLOCK / 2][size]: pairs of a number and that of the next position; what is
 * behind the last position is 0. */
static inline void lay_values(const bf16 *values, int count, int size, int32_t *out) {
    for (int key = 0; key < BLOCK; key += 2)
        for (int d = 0; d < size; d += 2 * LANES)
            pair_up(values + (int64_t)key * size + d, count - key, size, out + key / 2 * size + d);
}

typedef struct {
    float *state;          /* its maximum, its weight; from STATE on its sums */
    const int32_t *query;  /* in pairs */
    int32_t position;      /* it sees what is up to it */
    int32_t from, to;      /* keys of this block that it sees, where not all see all */
} Row;

/* Of the products of a row with a block's keys, hide those that it does not see. */
static inline void hide(__m512 acc[GROUPS], const Row *row) {
#pragma GCC unroll 4
    for (int j = 0; j < GROUPS; j++)
        acc[j] = seen_of(acc[j], j * LANES, row->from, row->to);
}

static inline float highest(const __m512 acc[GROUPS]) {
    return _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(acc[0], acc[1]), _mm512_max_ps(acc[2], acc[3])));
}

/* Up to LANES rows have new maxima. Of `now` and those before come the new ones, what is to be taken
 * off their scores, and by how much their sums so far fade. */
static inline void raise(const float *before, float *now, float *base, float *faded) {
    __m512 old = _mm512_load_ps(before), all = _mm512_max_ps(old, _mm512_load_ps(now));
    _mm512_store_ps(now, all);
    /* a row that saw nothing so far has no maximum to subtract */
    all = _mm512_mask_mov_ps(all, _mm512_cmp_ps_mask(all, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ),
                             _mm512_setzero_ps());
    _mm512_store_ps(base, all);
    _mm512_store_ps(faded, exp2_ps(_mm512_sub_ps(old, all)));
}

/* Write the weights of a row's products as pairs, and count them in its state. */
static inline void weigh(__m512 acc[GROUPS], Row *row, float scale, float now, float base,
                         float faded, int32_t *weights) {
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int j = 0; j < GROUPS; j++) {
        acc[j] = exp2_ps(_mm512_fmsub_ps(acc[j], _mm512_set1_ps(scale), _mm512_set1_ps(base)));
        sum = _mm512_add_ps(sum, acc[j]);
    }
    vec low = {.pairs = _mm512_cvtne2ps_pbh(acc[1], acc[0])};
    vec high = {.pairs = _mm512_cvtne2ps_pbh(acc[3], acc[2])};
    _mm512_store_si512(weights, low.bits);
    _mm512_store_si512(weights + LANES, high.bits);
    row->state[0] = now;
    row->state[1] = row->state[1] * faded + _mm512_reduce_add_ps(sum);
}

/* Let ROWS query rows meet one block, laid out by `lay_keys` and `lay_values`; `masked`: not every
 * row sees all of it. ROWS is a constant where this is inlined, so that all accumulators are
 * registers. */
static inline __attribute__((always_inline)) void meet(const int ROWS, Row *rows,
                                                       const int32_t *keys, const int32_t *values,
                                                       int size, float scale, int masked) {
    const int32_t *left[TILE];
    __m512 acc[TILE][GROUPS];
    float before[LANES] __attribute__((aligned(64))) = {0}, now[LANES] __attribute__((aligned(64))) = {0};
    float base[LANES] __attribute__((aligned(64))), faded[LANES] __attribute__((aligned(64)));
    int32_t weights[TILE][BLOCK / 2] __attribute__((aligned(64)));
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
        left[r] = rows[r].query;
#pragma GCC unroll 4
        for (int j = 0; j < GROUPS; j++)
            acc[r][j] = _mm512_setzero_ps();
    }
    for (int k = 0; k < size / 2; k++) {
        vec right[GROUPS];
#pragma GCC unroll 4
        for (int j = 0; j < GROUPS; j++)
            right[j].bits = _mm512_load_si512(keys + k * BLOCK + j * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            vec one = {.bits = _mm512_set1_epi32(left[r][k])};
#pragma GCC unroll 4
            for (int j = 0; j < GROUPS; j++)
                acc[r][j] = _mm512_dpbf16_ps(acc[r][j], one.pairs, right[j].pairs);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
        if (masked)
            hide(acc[r], &rows[r]);
        before[r] = rows[r].state[0];
        now[r] = scale * highest(acc[r]);
    }
    raise(before, now, base, faded);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        weigh(acc[r], &rows[r], scale, now[r], base[r], faded[r], weights[r]);
    for (int d = 0; d < size; d += BLOCK) {
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int j = 0; j < GROUPS; j++)
                acc[r][j] = _mm512_mul_ps(
                    _mm512_load_ps(rows[r].state + STATE + d + j * LANES), _mm512_set1_ps(faded[r]));
        for (int k = 0; k < BLOCK / 2; k++) {
            vec right[GROUPS];
#pragma GCC unroll 4
            for (int j = 0; j < GROUPS; j++)
                right[j].bits = _mm512_load_si512(values + k * size + d + j * LANES);
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; r++) {
                vec one = {.bits = _mm512_set1_epi32(weights[r][k])};
#pragma GCC unroll 4
                for (int j = 0; j < GROUPS; j++)
                    acc[r][j] = _mm512_dpbf16_ps(acc[r][j], one.pairs, right[j].pairs);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int j = 0; j < GROUPS; j++)
                _mm512_store_ps(rows[r].state + STATE + d + j * LANES, acc[r][j]);
    }
}

static void meet_some(int count, Row *rows, const int32_t *keys, const int32_t *values, int size,
                      float scale, int masked) {
    switch (count) {
    case 6: meet(6, rows, keys, values, size, scale, masked); break;
    case 5: meet(5, rows, keys, values, size, scale, masked); break;
    case 4: meet(4, rows, keys, values, size, scale, masked); break;
    case 3: meet(3, rows, keys, values, size, scale, masked); break;
    case 2: meet(2, rows, keys, values, size, scale, masked); break;
    case 1: meet(1, rows, keys, values, size, scale, masked); break;
    }
}

/* Find what rows see of the `count` keys from `first` on; 0 if it is nothing. */
static int see_some(Row *rows, int many, int first, int count, int sees) {
    int some = 0;
    for (int r = 0; r < many; r++) {
        find_seen(first, count, rows[r].position, sees, &rows[r].from, &rows[r].to);
        some |= rows[r].from < rows[r].to;
    }
    return some;
}

/* Let a piece's rows meet its positions, with the heads that share one head of keys. */
static void attend_piece(const Plan *plan, const bf16 *qkv, const bf16 *window, const Piece *piece,
                         int kv_head, int sees) {
    int32_t keys[MAX_SIZE / 2 * BLOCK] __attribute__((aligned(64)));
    int32_t values[BLOCK / 2 * MAX_SIZE] __attribute__((aligned(64)));
    int size = plan->size, group = plan->heads / plan->kv_heads;
    int64_t row_stride = (int64_t)(plan->heads + 2 * plan->kv_heads) * size;
    const bf16 *mine = window + piece->slot * plan->slot_stride + kv_head * plan->head_stride;
    const int32_t *members = plan->members + piece->member;
    int total = piece->rows * group, least = INT32_MAX;
    float *states = results_of(plan, piece, kv_head);
    Row rows[total];
    for (int r = 0; r < total; r++) {
        int row = members[r / group], head = kv_head * group + r % group;
        float *state = states + (int64_t)r * stride_of(size);
        memset(state, 0, (STATE + size) * sizeof(float));
        state[0] = -INFINITY;
        rows[r] = (Row){.state = state,
                        .query = (const int32_t *)(qkv + row * row_stride + head * size),
                        .position = plan->positions[row]};
        least = rows[r].position < least ? rows[r].position : least;
    }
    for (int first = piece->first; first < piece->end; first += BLOCK) {
        int count = piece->end - first < BLOCK ? piece->end - first : BLOCK;
        int laid = 0, all = sees_all(first, count, least, sees);
        for (int r = 0; r < total; r += TILE) {
            int many = total - r < TILE ? total - r : TILE;
            if (!all && !see_some(rows + r, many, first, count, sees))
                continue;
            if (!laid) {
                int64_t at = (int64_t)first * size;
                lay_keys(mine + at, count, size, keys);
                lay_values(mine + plan->kv_heads * plan->head_stride + at, count, size, values);
                laid = 1;
            }
            meet_some(many, rows + r, keys, values, size, plan->scale, !all);
        }
    }
}

/* In the way that is the fastest for so many rows. */
static void attend_in_its_way(const Plan *plan, const bf16 *qkv, const bf16 *window,
                              const Piece *piece, int kv_head, int sees) {
    if (piece->rows * (plan->heads / plan->kv_heads) <= FEW) {
        agentbus_attend_few(plan, qkv, window, piece, kv_head, sees);
        return;
    }
#if HAS_AMX
    if (plan->amx) {
        agentbus_attend_in_tiles(plan, qkv, window, piece, kv_head, sees);
        return;
    }
#endif
    attend_piece(plan, qkv, window, piece, kv_head, sees);
}

/* Turn a row's queries and keys to its position, and put its keys and values in place. */
static void turn_and_put(const Plan *plan, bf16 *row, bf16 *window, int slot, int position) {
    int size = plan->size, half = size / 2, turned = plan->heads + plan->kv_heads;
    const bf16 *cosine = plan->cosine + (int64_t)position * size;
    const bf16 *sine = plan->sine + (int64_t)position * size + half;
    for (int head = 0; head < turned; head++) {
        bf16 *x = row + head * size, *y = x + half;
        for (int d = 0; d < half; d += LANES) {
            __m512 one = widened(x + d), other = widened(y + d);
            __m512 c = widened(cosine + d), s = widened(sine + d);
            narrowed(x + d, _mm512_fnmadd_ps(other, s, _mm512_mul_ps(one, c)));
            narrowed(y + d, _mm512_fmadd_ps(one, s, _mm512_mul_ps(other, c)));
        }
    }
    bf16 *to = window + slot * plan->slot_stride + (int64_t)position * size;
    for (int head = 0; head < 2 * plan->kv_heads; head++)
        memcpy(to + head * plan->head_stride, row + (plan->heads + head) * size,
               size * sizeof(bf16));
}

/* Merge what a row's pieces gave one head. */
static void merge(const Plan *plan, int row, int head, bf16 *out) {
    int size = plan->size;
    const int32_t *from = plan->partials + plan->merged[row];
    int count = plan->merged[row + 1] - plan->merged[row];
    const float *states[count];
    float most = -INFINITY, total = 0.0f, weights[count];
    for (int i = 0; i < count; i++) {
        states[i] = result_of(plan, from[i], head);
        most = fmaxf(most, states[i][0]);
    }
    for (int i = 0; i < count; i++) {
        weights[i] = count == 1 ? 1.0f : exp2f(states[i][0] - most);
        total += weights[i] * states[i][1];
    }
    for (int d = 0; d < size; d += LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < count; i++)
            sum = _mm512_fmadd_ps(_mm512_load_ps(states[i] + STATE + d), _mm512_set1_ps(weights[i]),
                                  sum);
        narrowed(out + d, _mm512_div_ps(sum, _mm512_set1_ps(total)));
    }
}

void agentbus_share_attention(const Team *team, const Plan *plan, int layer, bf16 *qkv, bf16 *out) {
    int64_t row_stride = (int64_t)(plan->heads + 2 * plan->kv_heads) * plan->size;
    bf16 *window = plan->windows[layer];
    int sees = plan->sees[layer];
    Share rows = share_of(team, plan->rows);
    for (int64_t row = rows.from; row < rows.end; row++)
        turn_and_put(plan, qkv + row * row_stride, window, plan->slots[row], plan->positions[row]);
    await_all(team);
    for (int64_t task; (task = next_task(team)) < plan->count * plan->kv_heads;)
        attend_in_its_way(plan, qkv, window, plan->pieces + task / plan->kv_heads,
                          (int)(task % plan->kv_heads), sees);
    await_all(team);
    Share heads = share_of(team, (int64_t)plan->rows * plan->heads);
    for (int64_t task = heads.from; task < heads.end; task++)
        merge(plan, (int)(task / plan->heads), (int)(task % plan->heads), out + task * plan->size);
    await_all(team);
}

void agentbus_attend(const Plan *plan, int32_t layer, bf16 *qkv, bf16 *out) {
    Meeting meeting = {0};
#pragma omp parallel num_threads(plan->threads)
    {
        Team team = join(&meeting);
        agentbus_share_attention(&team, plan, layer, qkv, out);
    }
}
