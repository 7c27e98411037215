/* Packing weights, once, when a model is loaded. */

#include "weights.h"

enum {
    KINDS = 256,  /* of exponents */
    SHIFT = 7,    /* of an exponent's bits in a number */
    COUNTERS = 4, /* of the same kind: one after another waits for the one before */
};

/* How many of the numbers [count], a multiple of COUNTERS, have which exponent -> found [KINDS]. */
void agentbus_count_exponents(const bf16 *numbers, int64_t count, int64_t *found) {
    int64_t counts[COUNTERS][KINDS] = {0};
    for (int64_t at = 0; at < count; at += COUNTERS)
        for (int i = 0; i < COUNTERS; i++)
            counts[i][numbers[at + i] >> SHIFT & (KINDS - 1)]++;
    for (int kind = 0; kind < KINDS; kind++)
        found[kind] = counts[0][kind] + counts[1][kind] + counts[2][kind] + counts[3][kind];
}

/* The codes of 32 numbers' exponents, 0 where they have none -> which of them have one. */
static inline __mmask32 find_codes(__m512i numbers, const bf16 *table, __m512i *codes) {
    __m512i exponents = _mm512_and_si512(numbers, _mm512_set1_epi16((KINDS - 1) << SHIFT));
    __mmask32 known = 0;
    *codes = _mm512_setzero_si512();
    for (int code = 0; code < EXPONENTS; code++) {
        __mmask32 equal = _mm512_cmpeq_epi16_mask(exponents, _mm512_set1_epi16((short)table[code]));
        *codes = _mm512_mask_mov_epi16(*codes, equal, _mm512_set1_epi16((short)code));
        known |= equal;
    }
    return known;
}

/* Pack a group, and note its strays; return where the next stray goes. */
static Stray *pack_group(const bf16 *numbers, int place, const bf16 *table, uint8_t *to,
                         Stray *stray) {
    const __m512i mask = _mm512_set1_epi16((short)SIGN_AND_MANTISSA);
    __m512i own[4], all = _mm512_setzero_si512();
    for (int vector = 0; vector < 4; vector++, numbers += LINE, place += LINE) {
        __m512i codes, some = _mm512_loadu_si512(numbers);
        __mmask32 others = ~find_codes(some, table, &codes);
        own[vector] = _mm512_and_si512(some, mask);
        all = _mm512_or_si512(all, _mm512_sll_epi16(codes, _mm_cvtsi32_si128(4 * vector)));
        for (; others; others &= others - 1) {
            int at = __builtin_ctz(others);
            *stray++ = (Stray){(uint16_t)(place + at), numbers[at]};
        }
    }
    _mm512_storeu_si512(to, _mm512_or_si512(own[0], exchanged(own[1])));
    _mm512_storeu_si512(to + 64, _mm512_or_si512(own[2], exchanged(own[3])));
    _mm512_storeu_si512(to + 128, all);
    return stray;
}

/* Pack numbers [pairs, PAIR], of whose exponents the table [EXPONENTS] has most: packed pairs [pairs,
 * PACKED_PAIR], the number of each pair's first stray [pairs + 1], and the strays, for which there is
 * memory. */
void agentbus_pack(const bf16 *numbers, int64_t pairs, const bf16 *table, uint8_t *packed,
                   int32_t *first_stray, Stray *strays) {
    Stray *next = strays;
    for (int64_t pair = 0; pair < pairs; pair++) {
        first_stray[pair] = (int32_t)(next - strays);
        for (int at = 0; at < PAIR; at += GROUP, packed += PACKED_GROUP)
            next = pack_group(numbers + pair * PAIR + at, at, table, packed, next);
    }
    first_stray[pairs] = (int32_t)(next - strays);
}
