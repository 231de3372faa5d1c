// Convolution (implicit GEMM, NCHW4c) and matrix product on tensor cores: uint8 x int8 to int32, half x half to float.
//
// A word is what one operand register of mma holds of a row: four bytes or two halves, neighbours along the channels.
// Both m16n8k32 on bytes and m16n8k16 on halves are 16 rows x 8 words x 8 columns with the same layout of registers
// (PTX ISA, "Matrix Fragments for mma.m16n8k16/m16n8k32"), so one loop serves both. Blocks of four channels are one
// word of bytes or two of halves: fragments are read as words straight from where positions lie side by side, without
// a transposition. Bank conflicts: strides of 8 words more than a multiple of 32, or vectors that change places, leave
// the 32 words of a fragment's register on 32 banks.
//
// What only a GPU has stands in `optkit_*` functions below; with OPTKIT_HOST they come from elsewhere.
#pragma once

#ifndef OPTKIT_HOST
#define OPTKIT_DEVICE static __device__ __forceinline__
#define OPTKIT_MEMBER __device__ __forceinline__

// `bytes` (4, 8 or 16) from global to shared memory, asynchronously
template <int bytes>
OPTKIT_DEVICE void optkit_copy(unsigned* to, const unsigned* from) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(bytes) : "memory");
  }
}
OPTKIT_DEVICE void optkit_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
OPTKIT_DEVICE void optkit_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
OPTKIT_DEVICE void optkit_sync() { __syncthreads(); }
OPTKIT_DEVICE int optkit_thread() { return threadIdx.x; }
OPTKIT_DEVICE void optkit_mma(int* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
OPTKIT_DEVICE void optkit_mma(float* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Words of a block of four channels.
template <typename Sum>
struct OptkitWords {
  static const int COUNT = 1;
};
template <>
struct OptkitWords<float> {
  static const int COUNT = 2;
};

// The left operand of a step is 8 words of each row; `at(k, m)` is where word k of row m lies.

// Positions of an image, [IN][H][W][4]; extents as in OptkitConv.
template <typename Sum, int ROWS, int IN, int H, int W, int OH, int OW, int KY, int KX, int SY, int SX, int DY, int DX,
          int T, int L, unsigned FILL>
struct OptkitPositions {
  static const int WORDS = OptkitWords<Sum>::COUNT, BLOCKS = 8 / WORDS, STRIDE = ROWS + 8, SIZE = 8 * STRIDE;
  const unsigned* data;
  int y, x;
  bool real;

  OPTKIT_MEMBER OptkitPositions(const void* image, int row) : data(static_cast<const unsigned*>(image)) {
    const int p = row + optkit_thread() % ROWS;
    y = p / OW * SY - T, x = p % OW * SX - L, real = p < OH * OW;
  }
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
    const int first = step / (KY * KX) * BLOCKS, tap = step % (KY * KX), m = optkit_thread() % ROWS;
    const int iy = y + tap / KX * DY, ix = x + tap % KX * DX;
    const bool inside = real && iy >= 0 && iy < H && ix >= 0 && ix < W;
#pragma unroll
    for (int k = optkit_thread() / ROWS; k < BLOCKS; k += 128 / ROWS) {
      unsigned* to = stage + (k * STRIDE + m) * WORDS;
      if (inside && first + k < IN) {
        optkit_copy<4 * WORDS>(to, data + (static_cast<long long>(first + k) * (H * W) + iy * W + ix) * WORDS);
      } else {
        for (int w = 0; w < WORDS; ++w) to[w] = FILL;
      }
    }
  }
  OPTKIT_DEVICE int at(int k, int m) { return (k / WORDS * STRIDE + m) * WORDS + k % WORDS; }
};

// Rows of a matrix, [M][DEPTH words], DEPTH a multiple of four. The two vectors of a row change places every four rows.
template <int ROWS, int M, int DEPTH>
struct OptkitRows {
  static const int SIZE = 8 * ROWS;
  const unsigned* data;
  int row;

  OPTKIT_MEMBER OptkitRows(const void* matrix, int row) : data(static_cast<const unsigned*>(matrix)), row(row) {}
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
#pragma unroll
    for (int item = optkit_thread(); item < 2 * ROWS; item += 128) {
      const int m = item / 2, k = item % 2 * 4;
      unsigned* to = stage + at(k, m);
      if (row + m < M && step * 8 + k < DEPTH) {
        optkit_copy<16>(to, data + static_cast<long long>(row + m) * DEPTH + step * 8 + k);
      } else {
        for (int w = 0; w < 4; ++w) to[w] = 0;
      }
    }
  }
  OPTKIT_DEVICE int at(int k, int m) { return m * 8 + (k / 4 ^ (m / 4 & 1)) * 4 + k % 4; }
};

// Sums of a tile of ROWS x COLUMNS to `tile`, [COLUMNS / 4][ROWS + 1][4], of which the last row is not used: it keeps
// threads that go down or across it on banks of their own. It also holds the operands before.
//   Sum: int for bytes, float for halves
//   IN, OUT: blocks of four channels
//   kernels: [OUT][IN][TAPS] of 4 WORDS words: channels out, in twos or fours in
//   column: first block of output channels
template <typename Sum, int ROWS, int COLUMNS, int IN, int OUT, int TAPS, typename Left>
struct OptkitTile {
  static const int THREADS = 128, STEP = 8;
  static const int WORDS = OptkitWords<Sum>::COUNT, BLOCKS = STEP / WORDS;  // of a step
  static const int STEPS = (IN + BLOCKS - 1) / BLOCKS * TAPS;
  static const int RIGHT = COLUMNS + 8, STAGE = Left::SIZE + STEP * RIGHT;
  static const int FIT = ROWS * COLUMNS / STAGE, STAGES = FIT < 4 ? FIT : 4;
  static const int ACROSS = ROWS / COLUMNS >= 4 ? 1 : 2, DOWN = THREADS / 32 / ACROSS;  // warps
  static const int TILES = ROWS / DOWN / 16, STRIPS = COLUMNS / ACROSS / 8;             // of mma in a warp
  static_assert(STAGES >= 2, "the stages of the operands have to fit where the sums go");
  static_assert(THREADS % ROWS == 0 && TILES > 0 && STRIPS > 0, "no such tile");

  OPTKIT_DEVICE void load(unsigned* stage, const Left& left, const unsigned* weights, int column, int step) {
    left.load(stage, step);
    const int first = step / TAPS * BLOCKS, tap = step % TAPS;
#pragma unroll
    for (int item = optkit_thread(); item < STEP * COLUMNS / 4; item += THREADS) {
      const int k = item % STEP, block = first + k / WORDS, out = column + item / STEP;
      unsigned* to = stage + Left::SIZE + k * RIGHT + item / STEP * 4;
      if (block < IN && out < OUT) {
        optkit_copy<16>(to, weights + ((static_cast<long long>(out) * IN + block) * TAPS + tap) * (4 * WORDS) +
                                k % WORDS * 4);
      } else {
        for (int w = 0; w < 4; ++w) to[w] = 0;
      }
    }
  }

  OPTKIT_DEVICE void run(Sum* tile, const Left& left, const void* kernels, int column) {
    unsigned* stages = reinterpret_cast<unsigned*>(tile);
    const unsigned* weights = static_cast<const unsigned*>(kernels);
    const int lane = optkit_thread() % 32, warp = optkit_thread() / 32, group = lane / 4, quad = lane % 4;
    const int m0 = warp / ACROSS * (TILES * 16) + group, n0 = warp % ACROSS * (STRIPS * 8);
    Sum sums[TILES][STRIPS][4];
#pragma unroll
    for (int i = 0; i < TILES; ++i)
      for (int j = 0; j < STRIPS; ++j)
        for (int v = 0; v < 4; ++v) sums[i][j][v] = 0;
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) {
      if (s < STEPS) load(stages + s * STAGE, left, weights, column, s);
      optkit_commit();
    }
    for (int step = 0; step < STEPS; ++step) {
      optkit_wait<STAGES - 2>();
      optkit_sync();
      const int next = step + STAGES - 1;
      if (next < STEPS) load(stages + next % STAGES * STAGE, left, weights, column, next);
      optkit_commit();
      const unsigned* from = stages + step % STAGES * STAGE;
      const unsigned* right = from + Left::SIZE;
      unsigned a[TILES][4], b[STRIPS][2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int k = quad + 4 * h;
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
          a[i][2 * h] = from[Left::at(k, m0 + i * 16)];
          a[i][2 * h + 1] = from[Left::at(k, m0 + i * 16 + 8)];
        }
#pragma unroll
        for (int j = 0; j < STRIPS; ++j) b[j][h] = right[k * RIGHT + n0 + j * 8 + group];
      }
#pragma unroll
      for (int i = 0; i < TILES; ++i)
#pragma unroll
        for (int j = 0; j < STRIPS; ++j) optkit_mma(sums[i][j], a[i], b[j]);
    }
    optkit_wait<0>();
    optkit_sync();
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
      for (int j = 0; j < STRIPS; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          const int m = m0 + i * 16 + v / 2 * 8, n = n0 + j * 8 + quad * 2 + v % 2;
          tile[(n / 4 * (ROWS + 1) + m) * 4 + n % 4] = sums[i][j][v];
        }
    optkit_sync();
  }
};

// A thread block's tile of a convolution.
//   H, W, OH, OW: extents; K, S, D: kernel, stride, dilation; T, L: padding before; FILL: a word of what is read outside
//   column: first block of output channels; row: first position
template <typename Sum, int ROWS, int COLUMNS, int IN, int OUT, int H, int W, int OH, int OW, int KY, int KX, int SY,
          int SX, int DY, int DX, int T, int L, unsigned FILL>
struct OptkitConv {
  typedef OptkitPositions<Sum, ROWS, IN, H, W, OH, OW, KY, KX, SY, SX, DY, DX, T, L, FILL> Left;
  OPTKIT_DEVICE void run(Sum* tile, const void* image, const void* kernels, int column, int row) {
    OptkitTile<Sum, ROWS, COLUMNS, IN, OUT, KY * KX, Left>::run(tile, Left(image, row), kernels, column);
  }
};

// A thread block's tile of a product of M rows, IN blocks deep, and OUT blocks of columns.
template <typename Sum, int ROWS, int COLUMNS, int IN, int OUT, int M>
struct OptkitMatmul {
  typedef OptkitRows<ROWS, M, IN * OptkitWords<Sum>::COUNT> Left;
  OPTKIT_DEVICE void run(Sum* tile, const void* matrix, const void* kernels, int column, int row) {
    OptkitTile<Sum, ROWS, COLUMNS, IN, OUT, 1, Left>::run(tile, Left(matrix, row), kernels, column);
  }
};
