// Tiles by warpgroups whose weights no thread copies: they come in pieces as long as they lie side by side, to all thread
// blocks of a cluster that multiply the same ones, and a barrier counts their bytes (PTX ISA, "cp.async.bulk",
// "mbarrier"). So the cache that all multiprocessors share is asked for them once a cluster.
#ifndef OPTKIT_HOST
// A barrier in shared memory that so many arrive at in a phase.
OPTKIT_DEVICE void optkit_barrier(unsigned long long* barrier, int count) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(count) : "memory");
}
// Barriers are there for copies, and for all threads of the cluster that meet next.
OPTKIT_DEVICE void optkit_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and lets the phase last until so many bytes have.
OPTKIT_DEVICE void optkit_expect(unsigned long long* barrier, int bytes) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
}
// Arrives at the barrier that another block of the cluster has at this place.
OPTKIT_DEVICE void optkit_arrive(unsigned long long* barrier, int block) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(optkit_peer(barrier, block))
               : "memory");
}
// Waits for the end of a phase, by its parity.
OPTKIT_DEVICE void optkit_await(unsigned long long* barrier, int parity) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(barrier)), done;
  do {
    asm volatile(
        "{\n.reg .pred done;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  } while (!done);
}
// Bytes from global memory to this place in shared memory of the first CAST blocks of the cluster, or of this block.
template <int CAST>
OPTKIT_DEVICE void optkit_bulk(unsigned* to, const unsigned* from, int bytes, unsigned long long* barrier) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  unsigned counter = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
  if (CAST > 1) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
            address),
        "l"(from), "r"(bytes), "r"(counter), "h"(static_cast<unsigned short>((1 << CAST) - 1))
        : "memory");
  } else {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(address),
                 "l"(from), "r"(bytes), "r"(counter)
                 : "memory");
  }
}
#endif

// Weights, as OptkitWeights, of which 2 DEEP blocks and all their taps lie side by side for every FOURS fours of columns.
template <int COLUMNS, int DEEP, int FOURS, int IN, int OUT, int TAPS, int CAST>
struct OptkitBulkWeights : OptkitFrom {
  static const int BLOCK = 4 * FOURS, BLOCKS = COLUMNS / BLOCK, PIECE = 2 * DEEP * TAPS * BLOCK * 4;  // words
  static const int SIZE = BLOCKS * PIECE, HALVES = FOURS / 2, ALONG = TAPS * BLOCK * 16;
  static_assert(FOURS == 2 || FOURS == 4, "eight columns of a chunk lie side by side");
  static_assert(OUT % FOURS == 0 && IN % (2 * DEEP) == 0, "blocks and groups are whole");
  static_assert(1LL * OUT * 4 * IN * TAPS * 4 < 1LL << 31, "places are 32-bit numbers");

  using OptkitFrom::OptkitFrom;
  // By a warp; every block of the cluster its share of the blocks of columns.
  OPTKIT_MEMBER void load(unsigned* stage, int group, unsigned long long* barrier, int rank) const {
    const int begin = first / BLOCK, there = OUT / FOURS - begin, count = there < BLOCKS ? there : BLOCKS;
    if (optkit_index() == 0) optkit_expect(barrier, count * (4 * PIECE));
    for (int i = optkit_index() * CAST + rank; i < count; i += 32 * CAST) {
      const unsigned* from = data + ((begin + i) * (IN * TAPS * BLOCK * 4) + group * PIECE);
      optkit_bulk<CAST>(stage + i * PIECE, from, 4 * PIECE, barrier);
    }
  }
  // Of a step of 8 words and a tap, columns 8 `half` to 8 `half` + 7 of every block.
  OPTKIT_DEVICE unsigned long long matrix(const unsigned* stage, int k, int tap, int half) {
    return optkit_matrix(optkit_address(stage + (2 * k * TAPS + tap) * (BLOCK * 4) + half * 32), ALONG, 4 * PIECE);
  }
};

// As OptkitWideTile; a step is a group of chunks with all taps, and CAST thread blocks, neighbours along the rows, read
// the same weights. `shift(tap)` is how many rows further on the left operand of a tap begins.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int CAST, int PLANES, int GROUPS, int TAPS,
          typename Left, typename Right>
struct OptkitBulkTile {
  typedef typename Kind::Sum Sum;
  static const int HEIGHT = ROWS, WIDTH = COLUMNS, BLOCKS = 1, THREADS = 2 * ROWS, HALVES = Right::HALVES;
  static const int STAGE = Left::SIZE + Right::SIZE, AHEAD = STAGES - 2, MANY = COLUMNS / 2 / HALVES;
  static const int BARRIERS = PLANES * (ROWS + 1) * 4 - 4 * STAGES;  // where they are, behind operands and sums
  static_assert(STAGES * STAGE <= BARRIERS && COLUMNS * (ROWS + 1) <= BARRIERS, "the tile has to fit");
  static_assert(STAGES >= 3 && ROWS % 64 == 0, "no such tile");

  OPTKIT_DEVICE void run(Sum* tile, const Left& left, const Right& right, int rank) {
    unsigned* stages = reinterpret_cast<unsigned*>(tile);
    unsigned long long* full = reinterpret_cast<unsigned long long*>(stages + BARRIERS);
    unsigned long long* empty = full + STAGES;
    const int rows = optkit_index() / 128 * 64;
    if (optkit_index() == 0) {
#pragma unroll
      for (int s = 0; s < STAGES; ++s) optkit_barrier(full + s, 1), optkit_barrier(empty + s, CAST);
      optkit_made();
    }
    meet();
    Sum sums[HALVES][MANY];
#pragma unroll
    for (int h = 0; h < HALVES; ++h)
#pragma unroll
      for (int i = 0; i < MANY; ++i) sums[h][i] = 0;
#pragma unroll
    for (int s = 0; s < AHEAD; ++s) {
      if (s < GROUPS) {
        left.load(stages + s * STAGE, s);
        if (optkit_index() < 32) right.load(stages + s * STAGE + Left::SIZE, s, full + s, rank);
      }
      optkit_commit();
    }
    for (int group = 0, place = 0, phase = 0; group < GROUPS; ++group) {
      optkit_wait<AHEAD - 1>();
      optkit_publish();
      optkit_await(full + place, phase);
      optkit_sync();
      const unsigned* a = stages + place * STAGE;
      const unsigned* b = a + Left::SIZE;
      optkit_begin();
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
        for (int k = 0; k < DEEP; ++k)
#pragma unroll
          for (int h = 0; h < HALVES; ++h) {
            const unsigned* from = a + (2 * k * Left::COUNT + rows + Left::shift(tap)) * 4;
            const unsigned long long matrix = optkit_matrix(optkit_address(from), Left::COUNT * 16, 128);
            Kind::multiply(sums[h], matrix, Right::matrix(b, k, tap, h));
          }
      optkit_end();
      const int free = place + AHEAD < STAGES ? place + AHEAD : place + AHEAD - STAGES, next = group + AHEAD;
      if (next < GROUPS) {
        // All threads of this block are done with what the next group's buffer held; of the others too, before it is
        // filled for them.
        left.load(stages + free * STAGE, next);
        if (CAST > 1 && next >= STAGES && optkit_index() < CAST) optkit_arrive(empty + free, optkit_index());
        if (optkit_index() < 32) {
          if (CAST > 1 && next >= STAGES) optkit_await(empty + free, free < place ? phase : phase ^ 1);
          right.load(stages + free * STAGE + Left::SIZE, next, full + free, rank);
        }
      }
      optkit_commit();
#pragma unroll
      for (int h = 0; h < HALVES; ++h) optkit_finish<1>(sums[h]);
      if (++place == STAGES) place = 0, phase ^= 1;
    }
#pragma unroll
    for (int h = 0; h < HALVES; ++h) optkit_finish<0>(sums[h]);
    optkit_wait<0>();
    meet();
#pragma unroll
    for (int h = 0; h < HALVES; ++h) optkit_leave<ROWS, HALVES>(tile, sums[h], rows, h);
    optkit_sync();
  }
  OPTKIT_DEVICE void meet() {
    if (CAST > 1) {
      optkit_sync_cluster();
    } else {
      optkit_sync();
    }
  }
};

// Rows of a matrix, as a left operand of one tap. A cluster's last thread blocks may have none.
template <int ROWS, int DEEP, int LIMIT, int DEPTH, int CAST>
struct OptkitBulkRows : OptkitWideRows<2 * ROWS, ROWS, DEEP, LIMIT, DEPTH, ROWS * CAST> {
  static const int COUNT = ROWS, SIZE = 8 * DEEP * ROWS;
  using OptkitWideRows<2 * ROWS, ROWS, DEEP, LIMIT, DEPTH, ROWS * CAST>::OptkitWideRows;
  OPTKIT_DEVICE int shift(int) { return 0; }
};

// As OptkitStripConv; CAST thread blocks, neighbours along the positions, are a cluster.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int CAST,
          int STRIP, int PITCH, int LINES, int WORDS, int FOURS, int IN, int OUT, int ALL, int SPAN, int FROM, int TO,
          int IMAGES, int H, int W, int OH, int OW, int KY, int KX, int SY, int SX, int DY, int DX, int T, int L,
          unsigned FILL>
struct OptkitBulkConv {
  static_assert(IN == ALL || SPAN % COLUMNS == 0, "a tile's columns read the same blocks");
  static_assert(1LL * IMAGES * ALL * H * W * WORDS < 1LL << 31, "places are 32-bit numbers");
  static_assert(SY == 1 && SX == 1 && PARTS == 1, "neighbours read neighbours, and all of the sum");
  typedef OptkitStrips<ROWS, DEEP, WORDS, STRIP, PITCH, LINES, IN, IMAGES, H, W, OH, OW, KY, KX, DY, DX, T, L, FILL> Left;
  typedef OptkitBulkWeights<COLUMNS, DEEP, FOURS, IN, OUT, KY * KX, CAST> Right;
  typedef OptkitBulkTile<Kind, ROWS, COLUMNS, DEEP, STAGES, CAST, PLANES, IN / (2 * DEEP), KY * KX, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* image, const void* kernels, int, int column, int row,
                         const void* next = 0) {
    typedef OptkitImages<IN, ALL, WORDS * 4 / Kind::WORDS, SPAN, FROM, TO> Images;
    const Images images(image, next, column, H * W * WORDS);
    Tile::run(tile, Left(images.data, row, images.apart), Right(kernels, column), row / ROWS % CAST);
  }
};

// As OptkitMatmul; CAST thread blocks, neighbours along the rows, are a cluster.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int CAST,
          int WORDS, int FOURS, int IN, int OUT, int M>
struct OptkitBulkMatmul {
  static_assert(WORDS == 4 && PARTS == 1, "a block of terms is a chunk, and all of the sum");
  typedef OptkitBulkRows<ROWS, DEEP, M, IN * WORDS, CAST> Left;
  typedef OptkitBulkWeights<COLUMNS, DEEP, FOURS, IN, OUT, 1, CAST> Right;
  typedef OptkitBulkTile<Kind, ROWS, COLUMNS, DEEP, STAGES, CAST, PLANES, IN / (2 * DEEP), 1, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* matrix, const void* kernels, int, int column, int row,
                         int rows = 0) {
    Tile::run(tile, Left(matrix, row, rows), Right(kernels, column), row / ROWS % CAST);
  }
};
