/* Packing weights, once, when a model is loaded. */

#include "weights.h"

enum {
    KINDS = 256, /* of exponents */
    SHIFT = 7,   /* of an exponent's bits in a number */
};

static inline int exponent_of(bf16 number) { return number >> SHIFT & (KINDS - 1); }

/* How many of the numbers [count] have which exponent -> found [KINDS], which is 0 before. */
void agentbus_count_exponents(const bf16 *numbers, int64_t count, int64_t *found, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : found[:KINDS])
    for (int64_t at = 0; at < count; at++)
        found[exponent_of(numbers[at])]++;
}

/* Pack a group whose numbers have the codes [KINDS] of their exponents. */
static void pack_group(const bf16 *numbers, const uint8_t *codes, uint8_t *to) {
    uint16_t words[3][LINE];
    for (int at = 0; at < LINE; at++) {
        uint16_t own[4], places = 0;
        for (int vector = 0; vector < 4; vector++) {
            bf16 number = numbers[vector * LINE + at];
            own[vector] = number & SIGN_AND_MANTISSA;
            places |= (uint16_t)(codes[exponent_of(number)] << 4 * vector);
        }
        words[0][at] = (uint16_t)(own[0] | own[1] << 8 | own[1] >> 8);
        words[1][at] = (uint16_t)(own[2] | own[3] << 8 | own[3] >> 8);
        words[2][at] = places;
    }
    memcpy(to, words, sizeof words);
}

/* Pack numbers [pairs, PAIR], of whose exponents the table [LINE] has most: packed pairs [pairs,
 * PACKED_PAIR], the number of each pair's first stray [pairs + 1], and the strays, for which there is
 * memory. */
void agentbus_pack(const bf16 *numbers, int64_t pairs, const bf16 *table, uint8_t *packed,
                   int32_t *first_stray, Stray *strays, int32_t threads) {
    uint8_t codes[KINDS] = {0}, known[KINDS] = {0};
    for (int code = 0; code < EXPONENTS; code++) {
        codes[exponent_of(table[code])] = (uint8_t)code;
        known[exponent_of(table[code])] = 1;
    }
    first_stray[0] = 0;
    for (int64_t pair = 0; pair < pairs; pair++) {
        int32_t next = first_stray[pair];
        for (int at = 0; at < PAIR; at++) {
            bf16 number = numbers[pair * PAIR + at];
            if (!known[exponent_of(number)])
                strays[next++] = (Stray){(uint16_t)at, number};
        }
        first_stray[pair + 1] = next;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t group = 0; group < pairs * (PAIR / GROUP); group++)
        pack_group(numbers + group * GROUP, codes, packed + group * PACKED_GROUP);
}
