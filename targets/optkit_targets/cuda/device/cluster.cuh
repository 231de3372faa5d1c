// Thread blocks that share a tile as a cluster (compute capability 9.0): each adds up its share of what all have summed,
// which it reads from their shared memory (PTX ISA, "mapa", "ld.shared::cluster", "barrier.cluster").
#ifndef OPTKIT_HOST
// All threads of a cluster meet; what they wrote before, all read after.
OPTKIT_DEVICE void optkit_sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
OPTKIT_DEVICE unsigned optkit_peer(const void* place, int block) {
  unsigned there, here = static_cast<unsigned>(__cvta_generic_to_shared(place));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(block));
  return there;
}
// Four numbers that another block of the cluster has at this place.
OPTKIT_DEVICE void optkit_read_peer(float* four, const float* place, int block) {
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(four[0]), "=f"(four[1]), "=f"(four[2]), "=f"(four[3])
               : "r"(optkit_peer(place, block))
               : "memory");
}
OPTKIT_DEVICE void optkit_read_peer(int* four, const int* place, int block) {
  asm volatile("ld.shared::cluster.v4.s32 {%0,%1,%2,%3}, [%4];"
               : "=r"(four[0]), "=r"(four[1]), "=r"(four[2]), "=r"(four[3])
               : "r"(optkit_peer(place, block))
               : "memory");
}
#endif

// A thread block's part of the tile of `Code`; leaves the whole sums of its share of the columns. The part is the number
// of the block in its cluster.
template <typename Code>
struct OptkitCluster {
  typedef typename Code::Tile Tile;
  typedef typename Tile::Sum Sum;
  static const int ROWS = Tile::HEIGHT, PARTS = Tile::BLOCKS, SHARE = Tile::WIDTH / 4 / PARTS, ITEMS = SHARE * ROWS;
  static_assert(Tile::WIDTH / 4 % PARTS == 0, "shares are equal");

  template <typename... More>
  OPTKIT_DEVICE void run(Sum* tile, const void* left, const void* right, int part, int column, int row, More... more) {
    Code::run(tile, left, right, part, column, row, more...);
    optkit_sync_cluster();
#pragma unroll
    for (int turn = 0; turn < (ITEMS + Tile::THREADS - 1) / Tile::THREADS; ++turn) {
      const int item = turn * Tile::THREADS + optkit_slice() * 128 + optkit_thread();
      if (ITEMS % Tile::THREADS && item >= ITEMS) break;
      Sum* place = tile + ((part * SHARE + item / ROWS) * (ROWS + 1) + item % ROWS) * 4;
      Sum parts[PARTS][4];
#pragma unroll
      for (int p = 0; p < PARTS; ++p) optkit_read_peer(parts[p], place, p);
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        Sum sum = parts[0][v];
#pragma unroll
        for (int p = 1; p < PARTS; ++p) sum += parts[p][v];
        place[v] = sum;
      }
    }
    optkit_sync_cluster();  // also: none is gone before the others have read from it
  }
};
