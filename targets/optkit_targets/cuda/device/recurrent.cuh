// One step of a recurrent layer: a thread block sums the gates of its units over the state, which lies in shared memory.
//
// Weights are (quads, columns, 4): four neighbouring terms of a sum, gates side by side. SLICES threads share a column and
// take its quads in turn; so all threads of a warp read the same four of the state. Where a thread has few weights it HOLDS
// them in registers for all steps, as persistent kernels do (Diamos et al., "Persistent RNNs", ICML 2016).
#ifndef OPTKIT_HOST
OPTKIT_DEVICE void optkit_write_peer(float* place, int block, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(optkit_peer(place, block)), "f"(value) : "memory");
}
#endif

// A new number of the state, for all thread blocks of the cluster.
template <int PARTS>
OPTKIT_DEVICE void optkit_tell(float* place, float value) {
  if constexpr (PARTS == 1) {
    *place = value;
  } else {
#pragma unroll
    for (int block = 0; block < PARTS; ++block) optkit_write_peer(place, block, value);
  }
}
// What was told before, all know after.
template <int PARTS>
OPTKIT_DEVICE void optkit_meet() {
  if constexpr (PARTS == 1) {
    optkit_sync();
  } else {
    optkit_sync_cluster();
  }
}

template <int COLUMNS, int TERMS, int SLICES, int THREADS, int EXAMPLES, int HOLDS>
struct OptkitRecurrence {
  static const int EACH = TERMS / 4 / SLICES, ITEMS = COLUMNS * SLICES, TURNS = (ITEMS + THREADS - 1) / THREADS;
  static_assert(TERMS % (4 * SLICES) == 0, "slices are equal");

  OPTKIT_DEVICE const float4* quad(const float* weights, int item, int i) {
    return reinterpret_cast<const float4*>(weights) + (i * SLICES + item / COLUMNS) * COLUMNS + item % COLUMNS;
  }
  // What the thread holds: EACH quads of TURNS columns.
  OPTKIT_DEVICE void load(float* held, const float* weights) {
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
      const int item = turn * THREADS + threadIdx.x;
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const float4 four = item < ITEMS ? *quad(weights, item, i) : make_float4(0, 0, 0, 0);
        float* place = held + (turn * EACH + i) * 4;
        place[0] = four.x, place[1] = four.y, place[2] = four.z, place[3] = four.w;
      }
    }
  }
  // Columns from `first` on, before `last`: parts (SLICES, EXAMPLES, COLUMNS) of the sums over the state (EXAMPLES, TERMS),
  // which all threads may read when they are back.
  OPTKIT_DEVICE void sums(float* parts, const float* state, const float* held, const float* weights, int first,
                                 int last) {
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
      const int item = turn * THREADS + threadIdx.x, column = item % COLUMNS, slice = item / COLUMNS;
      if (item >= ITEMS || column < first || column >= last) continue;
      float sum[EXAMPLES];
#pragma unroll
      for (int e = 0; e < EXAMPLES; ++e) sum[e] = 0;
      if constexpr (HOLDS) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) add(sum, held + (turn * EACH + i) * 4, state + (i * SLICES + slice) * 4);
      } else {
#pragma unroll 8
        for (int i = 0; i < EACH; ++i) {
          const float4 four = *quad(weights, item, i);
          const float values[4] = {four.x, four.y, four.z, four.w};
          add(sum, values, state + (i * SLICES + slice) * 4);
        }
      }
#pragma unroll
      for (int e = 0; e < EXAMPLES; ++e) parts[(slice * EXAMPLES + e) * COLUMNS + column] = sum[e];
    }
    optkit_sync();
  }
  OPTKIT_DEVICE void add(float* sum, const float* weights, const float* state) {
#pragma unroll
    for (int e = 0; e < EXAMPLES; ++e) {
      const float4 four = *reinterpret_cast<const float4*>(state + e * TERMS);
      sum[e] = fmaf(weights[3], four.w, fmaf(weights[2], four.z, fmaf(weights[1], four.y, fmaf(weights[0], four.x, sum[e]))));
    }
  }
};
