/* MLX calls cblas_sgemm; numpy's wheel carries OpenBLAS under another name and with 64-bit integers.
   Built into the environment by `ipa-mlx accelerate`, loaded before MLX by blas.py. */
#include <stdint.h>

/* Below it, threads gain little and cost much: OpenBLAS waits for them in a loop, and one whose core
   is taken by another program holds all up (measured: 7 times slower). */
#define SMALL ((int64_t)1 << 27) /* multiplications: a few milliseconds on one core */

int scipy_openblas_get_num_threads64_(void);
void scipy_openblas_set_num_threads64_(int threads);
void scipy_cblas_sgemm64_(int order, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k,
                          float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                          float beta, float *c, int64_t ldc);

void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  int threads = scipy_openblas_get_num_threads64_();
  int alone = threads > 1 && (int64_t)m * n * k < SMALL;
  if (alone) scipy_openblas_set_num_threads64_(1);
  scipy_cblas_sgemm64_(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  if (alone) scipy_openblas_set_num_threads64_(threads);
}
