/* Attention.
 *
 * It is computed in tiles with a running maximum and sum, as in FlashAttention
 * (https://arxiv.org/abs/2205.14135); what rows see is split into pieces that are computed apart and
 * merged, as in Flash-Decoding, so that few sequences keep all cores busy and a prefix that several
 * sequences share is read once for all.
 */

#include "kernels.h"

enum {
    BLOCK = 64,     /* keys that are met at once */
    GROUPS = 4,     /* vectors of a block */
    TILE = 6,       /* query rows that are multiplied at once: 24 accumulators */
    MAX_SIZE = 256, /* of a head */
    STATE = 16,     /* floats of a partial result before its sums: its maximum and its weight */
    AMX_LEAST = 8,  /* query rows from which AMX is faster; it multiplies LANES at once */
};

typedef struct {
    int32_t member;  /* its rows are the batch's rows members[member]..., its results have these numbers */
    int32_t rows;
    int32_t slot;    /* whose window holds its keys and values */
    int32_t first;   /* positions first..end are met */
    int32_t end;
} Piece;

typedef struct {
    const Piece *pieces;
    const int32_t *members;
    const int32_t *slots;      /* [rows]: where a row's own keys and values go */
    const int32_t *positions;  /* [rows]: of a row; it sees what is up to it */
    const int32_t *merged;     /* [rows + 1]: row r's results are numbers merged[r]..merged[r + 1] */
    const int32_t *partials;   /* of these */
    const bf16 *cosine;        /* [positions, size] */
    const bf16 *sine;
    float *scratch;            /* [kv_heads, results, heads / kv_heads, stride_of(size)] */
    int64_t slot_stride;       /* of a window, in numbers */
    int64_t head_stride;
    int32_t count;             /* of pieces */
    int32_t rows;
    int32_t results;           /* of all pieces */
    int32_t heads;
    int32_t kv_heads;
    int32_t size;
    int32_t threads;
    int32_t amx;               /* whether the CPU has it, and this process may use it */
    float scale;               /* from products to scores, times log2(e) */
} Plan;

/* Of a partial result: its state, its sums, and the query of its row. */
static inline int stride_of(int size) { return STATE + size + size / 2; }

/* Where the result of that number is for one head. Heads that share keys are neighbours, and so are
 * the numbers of a piece's rows. */
static inline float *result_of(const Plan *plan, int64_t number, int head) {
    int group = plan->heads / plan->kv_heads;
    int64_t place = (head / group * (int64_t)plan->results + number) * group + head % group;
    return plan->scratch + place * stride_of(plan->size);
}

/* Transpose 16 rows of 16 pairs. */
static inline void transpose16(const __m512i in[16], int32_t *out, int stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm512_unpacklo_epi32(in[2 * i], in[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88);
        a[4 + i] = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
        a[8 + i] = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
        a[12 + i] = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_store_si512(out + i * stride, _mm512_shuffle_i32x4(a[i], a[8 + i], 0x88));
        _mm512_store_si512(out + (8 + i) * stride, _mm512_shuffle_i32x4(a[i], a[8 + i], 0xdd));
        _mm512_store_si512(out + (4 + i) * stride, _mm512_shuffle_i32x4(a[4 + i], a[12 + i], 0x88));
        _mm512_store_si512(out + (12 + i) * stride, _mm512_shuffle_i32x4(a[4 + i], a[12 + i], 0xdd));
    }
}

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
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int pair = 0; pair < BLOCK / 2; pair++)
        for (int d = 0; d < size; d += 2 * LANES) {
            const bf16 *at = values + (int64_t)2 * pair * size + d;
            __m512i one = 2 * pair < count ? _mm512_loadu_si512(at) : _mm512_setzero_si512();
            __m512i other =
                2 * pair + 1 < count ? _mm512_loadu_si512(at + size) : _mm512_setzero_si512();
            int32_t *to = out + pair * size + d;
            _mm512_store_si512(to, _mm512_permutex2var_epi16(one, low, other));
            _mm512_store_si512(to + LANES, _mm512_permutex2var_epi16(one, high, other));
        }
}

typedef struct {
    float *state;          /* its maximum, its weight; from STATE on its sums, then its query */
    int32_t position;      /* it sees what is up to it */
    int32_t from, to;      /* keys of this block that it sees, where not all see all */
} Row;

/* Of the products of a row with a block's keys, hide those that it does not see. */
static inline void hide(__m512 acc[GROUPS], const Row *row) {
#pragma GCC unroll 4
    for (int j = 0; j < GROUPS; j++) {
        __m512i key = _mm512_add_epi32(
            _mm512_set1_epi32(j * LANES),
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
        __mmask16 seen = _mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(row->from)) &
                         _mm512_cmplt_epi32_mask(key, _mm512_set1_epi32(row->to));
        acc[j] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, acc[j]);
    }
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
        left[r] = (const int32_t *)(rows[r].state + STATE + size);
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

#if HAS_AMX

/* Make tiles 0 to 5 have as many rows as are multiplied at once; 6 and 7 take keys and values. */
static FOR_AMX void shape_queries(int rows) {
    uint8_t left = (uint8_t)rows;
    shape_tiles((const uint8_t[8]){left, left, left, left, left, left, LANES, LANES});
}

/* As `meet`, of up to LANES rows whose states are neighbours, on tiles of that shape. */
static FOR_AMX void meet_tiles(int count, Row *rows, const int32_t *keys, const int32_t *values,
                               int size, float scale, int masked) {
    float products[LANES][BLOCK] __attribute__((aligned(64)));
    int32_t weights[LANES][BLOCK / 2] __attribute__((aligned(64)));
    float before[LANES] __attribute__((aligned(64))) = {0}, now[LANES] __attribute__((aligned(64))) = {0};
    float base[LANES] __attribute__((aligned(64))), faded[LANES] __attribute__((aligned(64)));
    const float *query = rows[0].state + STATE + size;
    int stride = stride_of(size) * 4;
    settle_memory();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < size / 2; k += LANES) {
        const int32_t *right = keys + k * BLOCK;
        _tile_loadd(4, query + k, stride);
        _tile_loadd(6, right, BLOCK * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + LANES, BLOCK * 4);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, right + 2 * LANES, BLOCK * 4);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(7, right + 3 * LANES, BLOCK * 4);
        _tile_dpbf16ps(3, 4, 7);
    }
    _tile_stored(0, products[0], BLOCK * 4);
    _tile_stored(1, products[0] + LANES, BLOCK * 4);
    _tile_stored(2, products[0] + 2 * LANES, BLOCK * 4);
    _tile_stored(3, products[0] + 3 * LANES, BLOCK * 4);
    settle_memory();
    for (int r = 0; r < count; r++) {
        __m512 acc[GROUPS];
        for (int j = 0; j < GROUPS; j++)
            acc[j] = _mm512_load_ps(products[r] + j * LANES);
        if (masked) {
            hide(acc, &rows[r]);
            for (int j = 0; j < GROUPS; j++)
                _mm512_store_ps(products[r] + j * LANES, acc[j]);
        }
        before[r] = rows[r].state[0];
        now[r] = scale * highest(acc);
    }
    raise(before, now, base, faded);
    for (int r = 0; r < count; r++) {
        __m512 acc[GROUPS];
        for (int j = 0; j < GROUPS; j++)
            acc[j] = _mm512_load_ps(products[r] + j * LANES);
        weigh(acc, &rows[r], scale, now[r], base[r], faded[r], weights[r]);
        if (faded[r] == 1.0f)
            continue;
        for (int d = 0; d < size; d += LANES) {
            float *sums = rows[r].state + STATE + d;
            _mm512_store_ps(sums, _mm512_mul_ps(_mm512_load_ps(sums), _mm512_set1_ps(faded[r])));
        }
    }
    settle_memory();
    _tile_loadd(4, weights[0], BLOCK * 2);
    _tile_loadd(5, weights[0] + LANES, BLOCK * 2);
    for (int d = 0; d < size; d += 2 * LANES) {
        float *sums = rows[0].state + STATE + d;
        const int32_t *first = values + d, *second = values + LANES * size + d;
        _tile_loadd(0, sums, stride);
        _tile_loadd(6, first, size * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(1, sums + LANES, stride);
        _tile_loadd(7, first + LANES, size * 4);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, second, size * 4);
        _tile_dpbf16ps(0, 5, 6);
        _tile_loadd(7, second + LANES, size * 4);
        _tile_dpbf16ps(1, 5, 7);
        _tile_stored(0, sums, stride);
        _tile_stored(1, sums + LANES, stride);
    }
    settle_memory();
}

#else

static void shape_queries(int rows) { (void)rows; }
static void meet_tiles(int count, Row *rows, const int32_t *keys, const int32_t *values, int size,
                       float scale, int masked) {
    for (int r = 0; r < count; r += TILE)
        meet_some(count - r < TILE ? count - r : TILE, rows + r, keys, values, size, scale, masked);
}
static void leave_tiles(void) {}

#endif

static inline int clipped(int64_t x, int most) { return x < 0 ? 0 : x > most ? most : (int)x; }

/* Find what rows see of the `count` keys from `first` on; 0 if it is nothing. */
static int see(Row *rows, int many, int first, int count, int sees) {
    int some = 0;
    for (int r = 0; r < many; r++) {
        rows[r].to = clipped((int64_t)rows[r].position + 1 - first, count);
        rows[r].from = sees ? clipped((int64_t)rows[r].position + 1 - sees - first, BLOCK) : 0;
        some |= rows[r].from < rows[r].to;
    }
    return some;
}

/* Let a piece's rows meet its positions, with the heads that share one head of keys. */
static void attend_piece(const Plan *plan, const bf16 *qkv, const bf16 *window, const Piece *piece,
                         int kv_head, int sees) {
    int32_t keys[MAX_SIZE / 2 * BLOCK] __attribute__((aligned(64)));
    int32_t values[BLOCK / 2 * MAX_SIZE] __attribute__((aligned(64)));
    int size = plan->size, group = plan->heads / plan->kv_heads, shaped = 0;
    int64_t row_stride = (int64_t)(plan->heads + 2 * plan->kv_heads) * size;
    const bf16 *mine = window + piece->slot * plan->slot_stride + kv_head * plan->head_stride;
    const int32_t *members = plan->members + piece->member;
    int total = piece->rows * group, stride = stride_of(size), least = INT32_MAX;
    float *states = result_of(plan, piece->member, kv_head * group);
    Row rows[total];
    for (int r = 0; r < total; r++) {
        int row = members[r / group], head = kv_head * group + r % group;
        float *state = states + (int64_t)r * stride;
        memset(state, 0, (STATE + size) * sizeof(float));
        state[0] = -INFINITY;
        memcpy(state + STATE + size, qkv + row * row_stride + head * size, size * sizeof(bf16));
        rows[r] = (Row){.state = state, .position = plan->positions[row]};
        least = rows[r].position < least ? rows[r].position : least;
    }
    for (int first = piece->first; first < piece->end; first += BLOCK) {
        int count = piece->end - first < BLOCK ? piece->end - first : BLOCK;
        int laid = 0, all = !sees && count == BLOCK && (int64_t)first + BLOCK <= (int64_t)least + 1;
        for (int r = 0, many; r < total; r += many) {
            int tiled = plan->amx && total - r >= AMX_LEAST, most = tiled ? LANES : TILE;
            many = total - r < most ? total - r : most;
            if (!all && !see(rows + r, many, first, count, sees))
                continue;
            if (!laid) {
                int64_t at = (int64_t)first * size;
                lay_keys(mine + at, count, size, keys);
                lay_values(mine + plan->kv_heads * plan->head_stride + at, count, size, values);
                laid = 1;
            }
            if (!tiled) {
                meet_some(many, rows + r, keys, values, size, plan->scale, !all);
                continue;
            }
            if (shaped != many)
                shape_queries(shaped = many);
            meet_tiles(many, rows + r, keys, values, size, plan->scale, !all);
        }
    }
    if (shaped)
        leave_tiles();
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

/* qkv [rows, heads + 2 kv_heads, size] -> out [rows, heads, size]; sees: positions a row sees, 0 for
 * all. */
void agentbus_attend(const Plan *plan, bf16 *qkv, bf16 *window, bf16 *out, int32_t sees) {
    int64_t row_stride = (int64_t)(plan->heads + 2 * plan->kv_heads) * plan->size;
#pragma omp parallel num_threads(plan->threads)
    {
#pragma omp for schedule(static)
        for (int row = 0; row < plan->rows; row++)
            turn_and_put(plan, qkv + row * row_stride, window, plan->slots[row],
                         plan->positions[row]);
#pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < plan->count * plan->kv_heads; task++)
            attend_piece(plan, qkv, window, plan->pieces + task / plan->kv_heads,
                         task % plan->kv_heads, sees);
#pragma omp for schedule(static)
        for (int task = 0; task < plan->rows * plan->heads; task++)
            merge(plan, task / plan->heads, task % plan->heads, out + (int64_t)task * plan->size);
    }
}
