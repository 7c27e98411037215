/* Products with packed weights, in tiles of AMX.
 *
 * A panel of 32 outputs meets 32 rows at a time in four accumulators. It is read from memory once, in
 * order: fetched while what is before it is multiplied, and unpacked, a pair of tiles ahead, for its
 * first rows. While a block of results is summed up, the one before it is written.
 */

#include "products.h"

#if HAS_AMX

enum {
    DEPTH = 2 * LANES,       /* inputs of a tile */
    CELL = LANES * DEPTH,    /* numbers of a tile of rows or weights */
    CHUNK = 256,             /* rows that meet all panels before the next do: they stay in the cache */
    AHEAD = 8 * PACKED_PAIR, /* bytes of a panel that are fetched before they are needed */
    FAR = 2048,              /* inputs from which many rows lie too far apart for a cache's sets */
    KEPT = 4,                /* pairs that stay unpacked where no other rows need them */
    APART = 2048,            /* numbers between threads' memory: a prefetcher reads on behind one's */
};

/* A panel while it is multiplied. */
typedef struct {
    const Product *product;
    int64_t number;
    bf16 *numbers;       /* of pairs that are unpacked */
    int64_t keeps;       /* a mask of their numbers: what is not kept is overwritten */
    const uint8_t *next; /* what is to be fetched */
    int lines;           /* for each pair of tiles */
} Panel;

/* Sums of up to PANEL rows and one panel, and where they go. */
typedef struct {
    float sums[PANEL][PANEL] __attribute__((aligned(64)));
    const Product *product;
    const bf16 *plus; /* or NULL */
    void *out;        /* of bf16 numbers, or of floats */
    int64_t panel;
    int rows;
    int written;
} Block;

static inline void put_row(Block *block) {
    const Product *product = block->product;
    const float *sums = block->sums[block->written];
    __m512 low = _mm512_load_ps(sums), high = _mm512_load_ps(sums + LANES);
    int64_t first = block->panel * PANEL, at = block->written++ * product->outputs + first;
    if (product->gated) {
        narrowed((bf16 *)block->out + at / 2, gated(low, high));
        return;
    }
    if (product->wide) {
        _mm512_storeu_ps((float *)block->out + at, low);
        _mm512_storeu_ps((float *)block->out + at + LANES, high);
        return;
    }
    if (product->bias) {
        low = _mm512_add_ps(low, widened(product->bias + first));
        high = _mm512_add_ps(high, widened(product->bias + first + LANES));
    }
    if (block->plus) {
        low = _mm512_add_ps(low, widened(block->plus + at));
        high = _mm512_add_ps(high, widened(block->plus + at + LANES));
    }
    vec both = {.pairs = _mm512_cvtne2ps_pbh(high, low)};
    _mm512_storeu_si512((bf16 *)block->out + at, both.bits);
}

static inline void put_rows(Block *block, int most) {
    for (int end = block->written + most; block->written < block->rows && block->written < end;)
        put_row(block);
}

/* Begin to sum up the rows from `row` on, at most up to `end`. */
static inline void begin(Block *block, const Product *product, int64_t panel, const bf16 *plus,
                         void *out, int64_t row, int64_t end) {
    int64_t at = row * (product->gated ? product->outputs / 2 : product->outputs);
    block->product = product;
    block->plus = plus ? plus + at : NULL;
    block->out = product->wide ? (void *)((float *)out + at) : (void *)((bf16 *)out + at);
    block->panel = panel;
    block->rows = end - row < PANEL ? (int)(end - row) : PANEL;
    block->written = 0;
}

/* Make the tiles of two times up to LANES rows; 6 and 7 take the weights. */
static FOR_AMX void shape_rows(int rows) {
    uint8_t one = (uint8_t)(rows < LANES ? rows : LANES);
    uint8_t other = (uint8_t)(rows > LANES ? rows - LANES : LANES);
    shape_tiles((const uint8_t[8]){one, one, other, other, one, other, LANES, LANES});
}

/* Multiply a block's rows with a panel, and unpack it if it is fresh: tiles of rows are `step` apart, a
 * tile's rows `stride`. They bypass the first cache, in which the panel stays for the next block.
 * Meanwhile write the block before, and fetch. */
static FOR_AMX void sum_up(Block *block, const Panel *panel, int fresh, const bf16 *x, int64_t step,
                           int64_t stride, Block *before) {
    const Product *product = panel->product;
    int64_t tiles = product->inputs / DEPTH, first = panel->number * tiles;
    const bf16 *lower = x + LANES * product->inputs;
    const uint8_t *next = panel->next;
    int both = block->rows > LANES, share = (int)((PANEL + tiles - 1) / tiles);
    if (fresh)
        unpack(&product->weight, first, panel->numbers);
    settle_memory();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < tiles; k++) {
        const bf16 *pair = panel->numbers + (k & panel->keeps) * PAIR;
        for (int line = 0; line < panel->lines; line++, next += 64)
            _mm_prefetch((const char *)next, _MM_HINT_T1);
        put_rows(before, share);
        if (fresh && k + 1 < tiles)
            unpack(&product->weight, first + k + 1, panel->numbers + ((k + 1) & panel->keeps) * PAIR);
        settle_memory();
        _tile_loadd(6, pair, 64);
        _tile_stream_loadd(4, x + k * step, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, pair + CELL, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (both) {
            _tile_stream_loadd(5, lower + k * step, stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, block->sums[0], sizeof block->sums[0]);
    _tile_stored(1, block->sums[0] + LANES, sizeof block->sums[0]);
    if (both) {
        _tile_stored(2, block->sums[LANES], sizeof block->sums[0]);
        _tile_stored(3, block->sums[LANES] + LANES, sizeof block->sums[0]);
    }
    settle_memory();
}

/* Put a row where tiles of rows have it, normed if there is a norm. */
static void lay_row(const Product *product, const bf16 *x, int64_t row, bf16 *laid) {
    int64_t inputs = product->inputs;
    const bf16 *from = x + row * inputs;
    bf16 *to = laid + row / LANES * LANES * inputs + row % LANES * DEPTH;
    __m512 factor = product->norm ? norm_factor(from, inputs, product->eps) : _mm512_setzero_ps();
    for (int64_t d = 0; d < inputs; d += DEPTH, to += CELL) {
        if (product->norm) {
            narrowed(to, normed(from + d, factor, product->norm + d));
            narrowed(to + LANES, normed(from + d + LANES, factor, product->norm + d + LANES));
        } else {
            _mm512_storeu_si512(to, _mm512_loadu_si512(from + d));
        }
    }
}

/* Memory for rows laid in whole tiles, and for a panel of each thread. */
static inline int64_t rows_room(int64_t rows, int64_t inputs) {
    return (rows + LANES - 1) / LANES * LANES * inputs + APART;
}

static inline int64_t panel_room(int64_t inputs) {
    return PANEL * inputs + APART;
}

int64_t agentbus_room(int64_t rows, int64_t inputs, int threads) {
    return rows_room(rows, inputs) + threads * panel_room(inputs);
}

void agentbus_share_product(const Team *team, const Product *product, const bf16 *x, bf16 *memory,
                            const bf16 *plus, void *out, int64_t rows) {
    int64_t inputs = product->inputs, panels = product->outputs / PANEL, tiles = inputs / DEPTH;
    int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    int lays = product->norm || (rows > PANEL && inputs >= FAR);
    int64_t step = lays ? CELL : DEPTH, stride = (lays ? DEPTH : inputs) * (int64_t)sizeof(bf16);
    Block blocks[2];
    int now = 0, shaped = 0;
    blocks[1].rows = blocks[1].written = 0;
    if (lays) {
        Share own = share_of(team, rows);
        for (int64_t row = own.from; row < own.end; row++)
            lay_row(product, x, row, memory);
        await_all(team);
        x = memory;
    }
    memory += rows_room(rows, inputs) + team->number * panel_room(inputs);
    Share own = share_of(team, chunks * panels);
    for (int64_t task = own.from; task < own.end; task++) {
        int64_t from = task / panels * CHUNK, end = from + CHUNK < rows ? from + CHUNK : rows;
        int64_t many = (end - from + PANEL - 1) / PANEL, size = tiles * PACKED_PAIR;
        Panel panel = {
            .product = product,
            .number = task % panels,
            .numbers = memory,
            .keeps = many > 1 ? -1 : KEPT - 1,
        };
        panel.next = product->weight.pairs + panel.number * size + (many > 1 ? size : AHEAD);
        panel.lines = (int)((PACKED_PAIR / 64 + many - 1) / many);
        for (int64_t row = from; row < end; row += PANEL, now ^= 1) {
            Block *block = &blocks[now];
            begin(block, product, panel.number, plus, out, row, end);
            if (shaped != block->rows)
                shape_rows(shaped = block->rows);
            sum_up(block, &panel, row == from, x + row * inputs, step, stride, &blocks[now ^ 1]);
            panel.next += panel.lines * 64 * tiles;
        }
    }
    put_rows(&blocks[now ^ 1], PANEL);
    if (shaped)
        leave_tiles();
    await_all(team);
}

void agentbus_multiply(const Product *product, const bf16 *x, bf16 *memory, const bf16 *plus,
                       void *out, int64_t rows, int32_t threads) {
    Meeting meeting = {0};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Team team = join(&meeting);
        agentbus_share_product(&team, product, x, memory, plus, out, rows);
    }
}

#endif
