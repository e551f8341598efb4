// silu(a) * b over rows [a | b] of bfloat16, and its gradient, for CPUs with AVX-512 BF16 (gate.py builds and calls it).
//
// Why here: this is most of what lies between the matrix products of a cell, and torch.compile's own code for it waits
// on a library call for the exponential and on a division. The sigmoid below is within 1.2e-4 of the true one, relatively
// (6e-5 each of the series and of the reciprocal's estimate); bfloat16 keeps 4e-3.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int64_t LANES = 16;

inline __m512 load(const uint16_t* from) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store(uint16_t* to, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

// 1 / (1 + 2^t) with t = -x log2(e) = n + r, n whole and |r| <= 1/2: 2^r by its Taylor series, 2^n by the exponent.
inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
  const __m512 r = _mm512_reduce_ps(t, 0);
  __m512 power = _mm512_set1_ps(9.6181291e-3f);
  power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(5.5504109e-2f));
  power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(2.4022651e-1f));
  power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(6.9314718e-1f));
  power = _mm512_fmadd_ps(power, r, one);
  return _mm512_rcp14_ps(_mm512_add_ps(_mm512_scalef_ps(power, _mm512_sub_ps(t, r)), one));
}

}  // namespace

// x (rows, 2 width) -> y (rows, width); width is a multiple of LANES.
extern "C" void eqr_gate(const uint16_t* x, uint16_t* y, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const uint16_t *a = x + 2 * width * row, *b = a + width;
    uint16_t* out = y + width * row;
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 gate = load(a + i);
      store(out + i, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), load(b + i)));
    }
  }
}

// x (rows, 2 width), the gradient of y (rows, width) -> the gradient of x (rows, 2 width).
extern "C" void eqr_gate_backward(const uint16_t* x, const uint16_t* dy, uint16_t* dx, int64_t rows, int64_t width,
                                  int threads) {
  const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const uint16_t *a = x + 2 * width * row, *b = a + width, *d = dy + width * row;
    uint16_t *da = dx + 2 * width * row, *db = da + width;
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 gate = load(a + i), grad = load(d + i), sigma = sigmoid(gate), silu = _mm512_mul_ps(gate, sigma);
      const __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(one, sigma), sigma);  // of silu
      store(da + i, _mm512_mul_ps(grad, _mm512_mul_ps(load(b + i), slope)));
      store(db + i, _mm512_mul_ps(grad, silu));
    }
  }
}
