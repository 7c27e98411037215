/* Weights in 12 bits each, with every bit of a bfloat16 number kept.
 *
 * All weights are read for every step, and a CPU waits for its memory. Of a number's 16 bits the 8 of
 * its exponent say little: nearly all numbers of a matrix have one of 16 (DFloat11,
 * https://arxiv.org/abs/2504.11651, finds 2.6 bits of information in them, and keeps lossless weights
 * in 11 bits). So 8 bits have the sign and the mantissa, 4 have the exponent's place in a table, and
 * the few numbers that have another exponent, strays, lie beside.
 */

#ifndef AGENTBUS_WEIGHTS_H
#define AGENTBUS_WEIGHTS_H

#include "kernels.h"

enum {
    PAIR = 4 * LANES * LANES, /* numbers of two tiles, that are unpacked at once */
    GROUP = 4 * LINE,         /* numbers of a pair that lie together */
    PACKED_GROUP = GROUP * 3 / 2, /* its bytes */
    PACKED_PAIR = PAIR * 3 / 2,
    EXPONENTS = 16,
    SIGN_AND_MANTISSA = 0x807f,
};

typedef struct {
    uint16_t place; /* in its pair */
    bf16 number;
} Stray;

/* A group is four vectors of 32 numbers, and packed it is three: the signs and mantissas of the first
 * two, those of the other two, and all exponents' codes, 4 bits for each vector. Of two numbers that
 * share 16 bits the second has its bytes exchanged: that is where the first leaves room. */
typedef struct {
    const uint8_t *pairs;      /* [pairs, PACKED_PAIR] */
    const bf16 *exponents;     /* [LINE]: of each code, where a number has them; twice */
    const int32_t *first_stray; /* [pairs + 1]: number of each pair's first */
    const Stray *strays;
} Weight;

/* Words with their bytes exchanged. */
static inline __m512i exchanged(__m512i words) {
    return _mm512_shuffle_epi8(
        words, _mm512_set4_epi32(0x0e0f0c0d, 0x0a0b0809, 0x06070405, 0x02030001));
}

/* `codes` has those of two vectors in its lowest bits; what is above them is not read. */
static inline void unpack_two(__m512i both, __m512i codes, __m512i exponents, bf16 *to) {
    const __m512i mask = _mm512_set1_epi16((short)SIGN_AND_MANTISSA);
    const int merge = 0xea; /* (a and b) or c */
    __m512i one = _mm512_permutexvar_epi16(codes, exponents);
    __m512i other = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), exponents);
    _mm512_store_si512(to, _mm512_ternarylogic_epi32(both, mask, one, merge));
    _mm512_store_si512(to + LINE,
                       _mm512_ternarylogic_epi32(exchanged(both), mask, other, merge));
}

/* Put a pair's PAIR numbers where they are wanted, aligned to a line. */
static inline void unpack(const Weight *weight, int64_t pair, bf16 *to) {
    const uint8_t *from = weight->pairs + pair * PACKED_PAIR;
    __m512i exponents = _mm512_loadu_si512(weight->exponents);
    for (int at = 0; at < PAIR; at += GROUP, from += PACKED_GROUP) {
        __m512i codes = _mm512_load_si512(from + 128);
        unpack_two(_mm512_load_si512(from), codes, exponents, to + at);
        codes = _mm512_srli_epi16(codes, 8);
        unpack_two(_mm512_load_si512(from + 64), codes, exponents, to + at + 2 * LINE);
    }
    for (int32_t stray = weight->first_stray[pair]; stray < weight->first_stray[pair + 1]; stray++)
        to[weight->strays[stray].place] = weight->strays[stray].number;
}

#endif
