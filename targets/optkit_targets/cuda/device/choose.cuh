// How many threads of the block before this one, and in blocks' turns before, have a flag; `count` of all so far goes up.
// Every thread of 1024 calls it; `totals` is shared memory for 32 warps.
OPTKIT_DEVICE int optkit_rank(int flag, int* totals, int* count) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int inside = flag;
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, inside, apart);
    if (lane >= apart) inside += other;
  }
  if (lane == 31) totals[warp] = inside;
  __syncthreads();
  int before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < 32; ++w) {
    before += w < warp ? totals[w] : 0;
    all += totals[w];
  }
  __syncthreads();
  const int rank = *count + before + inside - flag;
  *count += all;
  return rank;
}
