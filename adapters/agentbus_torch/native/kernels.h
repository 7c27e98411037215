/* What the kernels share: vectors of bfloat16 numbers, and tiles where the compiler knows AMX. */

#ifndef AGENTBUS_KERNELS_H
#define AGENTBUS_KERNELS_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

enum {
    LANES = 16, /* floats of a vector, and rows of a tile */
    LINE = 32,  /* numbers of a cache line */
};

#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define HAS_AMX 1
#define FOR_AMX __attribute__((target("amx-tile,amx-bf16")))
#else
#define HAS_AMX 0
#endif

typedef union {
    __m512i bits;
    __m512bh pairs;
} vec;

static inline __m512 widened(const bf16 *x) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

static inline float widened_one(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void narrowed(bf16 *to, __m512 x) {
    union { __m256bh pairs; __m256i bits; } y = {.pairs = _mm512_cvtneps_pbh(x)};
    _mm256_storeu_si256((__m256i *)to, y.bits);
}

/* 2 to the power of x, to within 3e-7 of it; 0 from -150 down. Minimax polynomial, 1 at 0. */
static inline __m512 exp2_ps(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x); /* in this order NaN stays */
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.3264727e-3f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.6715127e-3f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5507337e-2f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022242e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314698e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

#if HAS_AMX

/* GCC does not know that instructions on tiles read and write memory. */
static inline void settle_memory(void) { __asm__ volatile("" ::: "memory"); }

typedef struct {
    uint8_t palette, start, none[14];
    uint16_t bytes[16]; /* of a row of each tile */
    uint8_t rows[16];
} __attribute__((packed)) Shapes;

static inline FOR_AMX void shape_tiles(const uint8_t rows[8]) {
    Shapes shapes __attribute__((aligned(64))) = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shapes.bytes[tile] = 64;
        shapes.rows[tile] = rows[tile];
    }
    settle_memory();
    _tile_loadconfig(&shapes);
    settle_memory();
}

static inline FOR_AMX void leave_tiles(void) { _tile_release(); }

#endif


/* What the numbers x [size] of a row are multiplied with to be normed: one over the root of the mean of
 * their squares. */
static inline __m512 norm_factor(const bf16 *x, int64_t size, float eps) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t d = 0; d < size; d += LANES) {
        __m512 some = widened(x + d);
        squares = _mm512_fmadd_ps(some, some, squares);
    }
    float mean = _mm512_reduce_add_ps(squares) / (float)size;
    return _mm512_set1_ps(1.0f / sqrtf(mean + eps));
}

static inline __m512 normed(const bf16 *x, __m512 factor, const bf16 *weight) {
    return _mm512_mul_ps(_mm512_mul_ps(widened(x), factor), widened(weight));
}

/* silu(gate) * up */
static inline __m512 gated(__m512 gate, __m512 up) {
    __m512 power = exp2_ps(_mm512_mul_ps(gate, _mm512_set1_ps(-1.442695041f)));
    return _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), power)), up);
}

#endif
