// Sum of four products of an unsigned and a signed byte, added to c (PTX ISA, "dp4a").
#ifndef OPTKIT_HOST
static __device__ __forceinline__ int optkit_dp4a_u8s8(unsigned a, int b, int c) {
  int d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
#endif
