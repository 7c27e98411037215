/* What both ways to attend share: what is to be computed, and where its results go. */

#ifndef AGENTBUS_ATTENTION_H
#define AGENTBUS_ATTENTION_H

#include "kernels.h"
#include "team.h"

enum {
    BLOCK = 64,     /* keys that are met at once */
    MAX_SIZE = 256, /* of a head */
    FEW = 4,        /* query rows up to which they are read where they lie */
    STATE = 16,     /* floats of a partial result before its sums: its maximum and its weight */
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
    bf16 *const *windows;      /* of each layer, [slots, 2 kv_heads, capacity, size] */
    const int32_t *sees;       /* in each layer: positions that a row sees, 0 for all */
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

/* Of a partial result: its state, its sums, and in tiles as much of its queries. */
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

/* Where a piece's partial results for the heads that share one head of keys begin. */
static inline float *results_of(const Plan *plan, const Piece *piece, int kv_head) {
    return result_of(plan, piece->member, kv_head * (plan->heads / plan->kv_heads));
}

/* Whether rows whose first is at `least` see all of a whole block. */
static inline int sees_all(int first, int count, int least, int sees) {
    return !sees && count == BLOCK && (int64_t)first + BLOCK <= (int64_t)least + 1;
}

static inline int clipped(int64_t x, int most) { return x < 0 ? 0 : x > most ? most : (int)x; }

/* Find which of the `count` keys from `first` on a row at that position sees: from…to. */
static inline void find_seen(int first, int count, int position, int sees, int32_t *from, int32_t *to) {
    *to = clipped((int64_t)position + 1 - first, count);
    *from = sees ? clipped((int64_t)position + 1 - sees - first, BLOCK) : 0;
}

/* Of products with the keys from number `first` of a block on, hide those that are not in from…to. */
static inline __m512 seen_of(__m512 products, int first, int32_t from, int32_t to) {
    __m512i key = _mm512_add_epi32(
        _mm512_set1_epi32(first),
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    __mmask16 seen = _mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(from)) &
                     _mm512_cmplt_epi32_mask(key, _mm512_set1_epi32(to));
    return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, products);
}

/* Pairs of 32 numbers and those `size` numbers behind them; 0 of what is behind the last `count`. */
static inline void pair_up(const bf16 *from, int count, int size, int32_t *to) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    __m512i one = count > 0 ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
    __m512i other = count > 1 ? _mm512_loadu_si512(from + size) : _mm512_setzero_si512();
    _mm512_store_si512(to, _mm512_permutex2var_epi16(one, low, other));
    _mm512_store_si512(to + LANES, _mm512_permutex2var_epi16(one, high, other));
}

/* What each thread of a team does of: qkv [rows, heads + 2 kv_heads, size], which is overwritten ->
 * out [rows, heads, size], in one layer. All is written when it returns. */
void agentbus_share_attention(const Team *team, const Plan *plan, int layer, bf16 *qkv, bf16 *out);

/* Let a piece's rows meet its positions, with the heads that share one head of keys; there are up to
 * FEW of both together. */
void agentbus_attend_few(const Plan *plan, const bf16 *qkv, const bf16 *window, const Piece *piece,
                         int kv_head, int sees);

#if HAS_AMX

/* As `attend_piece`, in tiles. */
void agentbus_attend_in_tiles(const Plan *plan, const bf16 *qkv, const bf16 *window,
                              const Piece *piece, int kv_head, int sees);

#endif

#endif
