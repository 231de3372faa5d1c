// The threads of this one's warp that take part in its row's sums: those along x, of which a warp has a whole number.
//
// Of a warp with several rows some may be past the last one; what is active where the compiler asks need not be all others.
OPTKIT_DEVICE unsigned optkit_row_mask() {
  const unsigned threads = blockDim.x;
  return threads >= 32 ? 0xffffffffu : ((1u << threads) - 1) << threadIdx.y * threads % 32;
}
