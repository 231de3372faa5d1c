// What only a GPU has, from compute capability 8.0 on. With OPTKIT_HOST it comes from elsewhere.
//
// A word is what one operand register of mma holds of a row: four bytes, two halves or a float, neighbours along the sum.
// m16n8k32 on bytes, m16n8k16 on halves and m16n8k8 on floats are 16 rows x 8 words x 8 columns with the same layout of
// registers (PTX ISA, "Matrix Fragments for mma.m16n8k8/m16n8k16/m16n8k32").

#ifndef OPTKIT_HOST
#define OPTKIT_DEVICE static __device__ __forceinline__
#define OPTKIT_MEMBER __device__ __forceinline__

// `bytes` (4, 8 or 16) from global to shared memory, asynchronously; zeros where `inside` is false, then of any address.
template <int bytes>
OPTKIT_DEVICE void optkit_copy(unsigned* to, const unsigned* from, bool inside = true) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(bytes),
                 "r"(inside ? bytes : 0)
                 : "memory");
  }
}
// The same with words of FILL where `inside` is false, copied like all others. Threads that stored them themselves, in a
// branch while wgmma was under way, left wrong sums in tiles of deep steps on an H200 (CUDA 13.0).
template <unsigned FILL>
__device__ __align__(16) unsigned optkit_filling[4] = {FILL, FILL, FILL, FILL};
template <int bytes, unsigned FILL>
OPTKIT_DEVICE void optkit_fill(unsigned* to, const unsigned* from, bool inside) {
  if (FILL == 0) {
    optkit_copy<bytes>(to, from, inside);
  } else {
    optkit_copy<bytes>(to, inside ? from : optkit_filling<FILL>);
  }
}
OPTKIT_DEVICE void optkit_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
OPTKIT_DEVICE void optkit_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
// A thread block is of slices of 128 threads: the thread in its slice, and the slice.
OPTKIT_DEVICE int optkit_thread() { return threadIdx.x % 128; }
OPTKIT_DEVICE int optkit_slice() { return threadIdx.x / 128; }
OPTKIT_DEVICE void optkit_sync() { __syncthreads(); }
OPTKIT_DEVICE void optkit_sync_slice() { asm volatile("bar.sync %0, 128;" ::"r"(optkit_slice() + 1) : "memory"); }
OPTKIT_DEVICE void optkit_mma_bytes(int* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
OPTKIT_DEVICE void optkit_mma_halves(float* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
OPTKIT_DEVICE void optkit_mma_bfloats(float* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
OPTKIT_DEVICE void optkit_mma_tf32(float* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// A float rounded to what counts of it in a product.
OPTKIT_DEVICE unsigned optkit_tf32(unsigned word) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(word)));
  return rounded;
}
// Four 8 x 8 matrices of halves, each transposed: lane l gives the address of row l % 8 of matrix l / 8 and gets of
// each matrix rows 2 (l % 4) and 2 (l % 4) + 1 of column l / 4.
OPTKIT_DEVICE void optkit_transposed(unsigned* words, const unsigned* from) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
// Two floats rounded to halves, the first in the low bits.
OPTKIT_DEVICE unsigned optkit_halves(float low, float high) {
  unsigned word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
// The same to bfloat16.
OPTKIT_DEVICE unsigned optkit_bfloats(float low, float high) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
OPTKIT_DEVICE float optkit_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// The value of the lane whose number differs in this bit.
OPTKIT_DEVICE float optkit_other_lane(float x, int bit) { return __shfl_xor_sync(0xffffffffu, x, bit); }
#endif
