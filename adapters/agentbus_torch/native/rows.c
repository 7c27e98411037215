/* What stands between products, where products do not do it themselves. */

#include "kernels.h"

/* x [rows, size], each row normed */
void agentbus_rms_norm(const bf16 *x, const bf16 *weight, bf16 *out, int64_t rows, int64_t size,
                       float eps, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * size;
        __m512 factor = norm_factor(from, size, eps);
        for (int64_t d = 0; d < size; d += LANES)
            narrowed(out + row * size + d, normed(from + d, factor, weight + d));
    }
}

/* both [rows, 2 inner] -> silu(first half) * second half [rows, inner] */
void agentbus_silu_times(const bf16 *both, bf16 *out, int64_t rows, int64_t inner,
                         int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t d = 0; d < inner; d += LANES) {
            const bf16 *gate = both + row * 2 * inner + d;
            narrowed(out + row * inner + d, gated(widened(gate), widened(gate + inner)));
        }
}
