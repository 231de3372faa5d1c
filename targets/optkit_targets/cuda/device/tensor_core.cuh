// Convolution (implicit GEMM, channels in blocks of 4, 8 or 16) and matrix products on tensor cores.
//
// A block of channels is WORDS words, one to four, of data as of weights: fragments are read as words straight from where
// positions lie side by side, without a transposition. Bank conflicts: strides of 8 blocks more than a multiple of 32
// words, or vectors that change places, leave the 32 words of a fragment's register on 32 banks.
//
// A step is 8 DEEP words of the sum. Its operands pass through STAGES buffers; a thread block has SLICES groups of 128
// threads, which sum every so many steps each and add up what they have at the end (for small tensors of deep sums). For
// the same reason PARTS thread blocks may share a tile: then each leaves its part of the sums.

// What is multiplied (`Kind`): words of four numbers, the type of sums, how a word becomes an operand, and the
// instructions, of a warp and of a warpgroup.
struct OptkitBytes {  // uint8 x int8
  typedef int Sum;
  static const int WORDS = 1;
  OPTKIT_DEVICE unsigned operand(unsigned word) { return word; }
  OPTKIT_DEVICE void multiply(int* c, const unsigned* a, const unsigned* b) { optkit_mma_bytes(c, a, b); }
  template <int COUNT>
  OPTKIT_DEVICE void multiply(int (&c)[COUNT], unsigned long long a, unsigned long long b) {
    optkit_wgmma_bytes(c, a, b);
  }
};
struct OptkitHalves {
  typedef float Sum;
  static const int WORDS = 2;
  OPTKIT_DEVICE unsigned operand(unsigned word) { return word; }
  OPTKIT_DEVICE void multiply(float* c, const unsigned* a, const unsigned* b) { optkit_mma_halves(c, a, b); }
  template <int COUNT>
  OPTKIT_DEVICE void multiply(float (&c)[COUNT], unsigned long long a, unsigned long long b) {
    optkit_wgmma_halves(c, a, b);
  }
};
struct OptkitBfloats {  // bfloat16
  typedef float Sum;
  static const int WORDS = 2;
  OPTKIT_DEVICE unsigned operand(unsigned word) { return word; }
  OPTKIT_DEVICE void multiply(float* c, const unsigned* a, const unsigned* b) { optkit_mma_bfloats(c, a, b); }
  template <int COUNT>
  OPTKIT_DEVICE void multiply(float (&c)[COUNT], unsigned long long a, unsigned long long b) {
    optkit_wgmma_bfloats(c, a, b);
  }
};
struct OptkitTf32 {  // float32, of which eleven bits of the mantissa count
  typedef float Sum;
  static const int WORDS = 4;
  OPTKIT_DEVICE unsigned operand(unsigned word) { return optkit_tf32(word); }
  OPTKIT_DEVICE void multiply(float* c, const unsigned* a, const unsigned* b) { optkit_mma_tf32(c, a, b); }
};

// Which blocks of channels, and which tap of the kernel, a step sums: blocks of one tap, or where that would leave
// more than a quarter of the steps empty, blocks and taps as they lie in the weights. `place` is where of a channel's
// weights, [IN][TAPS], and `inside` whether there is such a block; sums of whole steps need not ask.
template <int WORDS, int DEEP, int IN, int TAPS>
struct OptkitSteps {
  static const int BLOCKS = 8 * DEEP / WORDS;
  static const int APART = (IN + BLOCKS - 1) / BLOCKS * TAPS, TOGETHER = (IN * TAPS + BLOCKS - 1) / BLOCKS;
  static const bool FLAT = TOGETHER * 4 <= APART * 3, WHOLE = !FLAT && IN % BLOCKS == 0;
  static const int COUNT = FLAT ? TOGETHER : APART;
  OPTKIT_DEVICE int block(int step, int k) { return FLAT ? (step * BLOCKS + k) / TAPS : step / TAPS * BLOCKS + k; }
  OPTKIT_DEVICE int tap(int step, int k) { return FLAT ? (step * BLOCKS + k) % TAPS : step % TAPS; }
  OPTKIT_DEVICE int place(int step, int k) {
    return FLAT ? step * BLOCKS + k : step / TAPS * (BLOCKS * TAPS) + step % TAPS + k * TAPS;
  }
  OPTKIT_DEVICE bool inside(int step, int k) { return WHOLE || block(step, k) < IN; }
};

// Operands. `at(k, i)` is where a step's word k of row (left) or column (right) i lies, SIZE the words of a step. Images
// and weights are of fewer than 2^31 words.

// Where an operand comes from, and the first row or column of a tile.
struct OptkitFrom {
  const unsigned* data;
  int first;

  OPTKIT_MEMBER OptkitFrom(const void* matrix, int place)
      : data(static_cast<const unsigned*>(matrix)), first(place) {}
};

// Images, from the first of IN blocks of channels of all ALL on that a tile reads, and how many words they are apart: each
// lies right behind the one before, or else `next` is the second one. A block is C channels, `size` words. Of a convolution
// in groups of FROM channels, that make TO, SPAN columns read the same blocks (`tile_span` in operators/conv.py).
template <int IN, int ALL, int C, int SPAN, int FROM, int TO>
struct OptkitImages {
  const unsigned* data;
  int apart;

  OPTKIT_MEMBER OptkitImages(const void* image, const void* next, int column, long long size)
      : data(static_cast<const unsigned*>(image)) {
    apart = static_cast<int>(next ? static_cast<const unsigned*>(next) - data : ALL * size);
    if (IN < ALL) {
      const int block = column / SPAN * SPAN / TO * FROM / C;
      data += (block < ALL - IN ? block : ALL - IN) * size;
    }
  }
};

// Height and width of images, and of what a convolution makes of them; where the first is 0, all as given when the kernel
// runs, and the others only tell whether it leaves them as they are.
template <int H, int W, int OH, int OW, bool GIVEN = H == 0>
struct OptkitExtents {
  static const bool OPEN = false;
  typedef int Place;
  OPTKIT_DEVICE int height() { return H; }
  OPTKIT_DEVICE int width() { return W; }
  OPTKIT_DEVICE int down() { return OH; }
  OPTKIT_DEVICE int across() { return OW; }
};
template <int H, int W, int OH, int OW>
struct OptkitExtents<H, W, OH, OW, true> {
  static const bool OPEN = true;
  typedef long long Place;
  int extents[4];

  OPTKIT_MEMBER int height() const { return extents[0]; }
  OPTKIT_MEMBER int width() const { return extents[1]; }
  OPTKIT_MEMBER int down() const { return extents[2]; }
  OPTKIT_MEMBER int across() const { return extents[3]; }
};

// Positions of IMAGES images, `apart` words from one to the next, of one where extents are open; of each, blocks
// [IN][H][W][WORDS] are read. Extents are as in OptkitConv. What a thread reads lies `base` words from the start.
template <int ROWS, int DEEP, int WORDS, int IN, int IMAGES, int H, int W, int OH, int OW, int KY, int KX, int SY, int SX,
          int DY, int DX, int T, int L, unsigned FILL>
struct OptkitPositions {
  typedef OptkitSteps<WORDS, DEEP, IN, KY * KX> Steps;
  typedef OptkitExtents<H, W, OH, OW> Extents;
  static const int BLOCKS = Steps::BLOCKS, STRIDE = ROWS + 8;
  static const int SIZE = 8 * DEEP * STRIDE;
  static const bool WHOLE = !Extents::OPEN && IMAGES * OH * OW % ROWS == 0;  // tiles
  static const bool POINTWISE = KY * KX * SY * SX == 1 && T == 0 && L == 0 && H == OH && W == OW;
  // Positions of a copy.
  static const int VECTOR = POINTWISE && !Extents::OPEN && H * W % (4 / WORDS) == 0 ? 4 / WORDS : 1;
  static const int ACROSS = ROWS / VECTOR, DOWN = 128 / ACROSS;
  const unsigned* data;
  Extents extents;
  int row, base, y, x;

  OPTKIT_MEMBER OptkitPositions(const unsigned* image, int first, int apart, Extents given)
      : data(image), extents(given) {
    row = first + optkit_thread() % ACROSS * VECTOR;
    const int all = extents.down() * extents.across(), place = IMAGES == 1 ? row : row % all;
    base = IMAGES == 1 ? 0 : row / all * apart;
    y = place / extents.across() * SY - T, x = place % extents.across() * SX - L;
  }
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
    const int m = optkit_thread() % ACROSS * VECTOR, height = extents.height(), width = extents.width();
#pragma unroll
    for (int turn = 0; turn < (BLOCKS + DOWN - 1) / DOWN; ++turn) {
      const int k = turn * DOWN + optkit_thread() / ACROSS;
      if (BLOCKS % DOWN && k >= BLOCKS) break;
      const int block = Steps::block(step, k), tap = Steps::tap(step, k);
      const int iy = y + tap / KX * DY, ix = x + tap % KX * DX;
      unsigned* to = stage + (k * STRIDE + m) * WORDS;
      const bool inside = (WHOLE || row < IMAGES * extents.down() * extents.across()) && Steps::inside(step, k) &&
                          (POINTWISE || (iy >= 0 && iy < height && ix >= 0 && ix < width));
      const int place = block * (height * width) + iy * width + ix;
      const unsigned* from = data + base + static_cast<typename Extents::Place>(place) * WORDS;
      optkit_fill<4 * WORDS * VECTOR, FILL>(to, from, inside);
    }
  }
  OPTKIT_DEVICE int at(int k, int m) { return (k / WORDS * STRIDE + m) * WORDS + k % WORDS; }
  OPTKIT_DEVICE unsigned word(const unsigned* stage, int k, int m) { return stage[at(k, m)]; }
};

// Where an operand of LIMIT rows comes from; where LIMIT is 0, of as many as are given when the kernel runs.
template <int LIMIT, int COUNT>
struct OptkitFromRows : OptkitFrom {
  int open;

  OPTKIT_MEMBER OptkitFromRows(const void* matrix, int place, int rows = 0) : OptkitFrom(matrix, place), open(rows) {}
  OPTKIT_MEMBER bool has(int row) const { return LIMIT ? LIMIT % COUNT == 0 || row < LIMIT : row < open; }
};

// Rows of a matrix, [LIMIT][DEPTH words], DEPTH a multiple of four, of which COUNT are in a tile. Vectors of a row change
// places.
template <int COUNT, int DEEP, int LIMIT, int DEPTH>
struct OptkitRows : OptkitFromRows<LIMIT, COUNT> {
  static const int SIZE = 8 * DEEP * COUNT, VECTORS = 2 * DEEP, ITEMS = VECTORS * COUNT;

  using OptkitFromRows<LIMIT, COUNT>::OptkitFromRows;
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
#pragma unroll
    for (int turn = 0; turn < (ITEMS + 128 - 1) / 128; ++turn) {
      const int item = turn * 128 + optkit_thread();
      if (ITEMS % 128 && item >= ITEMS) break;
      const int m = item / VECTORS, k = item % VECTORS * 4;
      unsigned* to = stage + at(k, m);
      const bool inside = this->has(this->first + m) &&
                          (DEPTH % (8 * DEEP) == 0 || step * (8 * DEEP) + k < DEPTH);
      optkit_copy<16>(to, this->data + (static_cast<long long>(this->first + m) * DEPTH + step * (8 * DEEP) + k), inside);
    }
  }
  OPTKIT_DEVICE int at(int k, int m) {
    return m * (8 * DEEP) + (k / 4 ^ (m * DEEP / 4 & (VECTORS - 1))) * 4 + k % 4;
  }
  OPTKIT_DEVICE unsigned word(const unsigned* stage, int k, int m) { return stage[at(k, m)]; }
};

// Columns of a matrix, [DEPTH][LIMIT], LIMIT in whole vectors: a word of halves is of two of its rows, one of floats of
// one.
template <typename Kind, int COUNT, int DEEP, int LIMIT, int DEPTH>
struct OptkitColumns : OptkitFrom {
  static const int TERMS = 4 / Kind::WORDS, STEP = 8 * DEEP * TERMS, VECTOR = 4 * TERMS;  // of a word, of 16 bytes
  static const int STRIDE = (COUNT + 8) / TERMS, SIZE = STEP * STRIDE, VECTORS = COUNT / VECTOR, ITEMS = STEP * VECTORS;

  using OptkitFrom::OptkitFrom;
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
#pragma unroll
    for (int turn = 0; turn < (ITEMS + 128 - 1) / 128; ++turn) {
      const int item = turn * 128 + optkit_thread();
      if (ITEMS % 128 && item >= ITEMS) break;
      const int k = step * STEP + item / VECTORS, n = first + item % VECTORS * VECTOR;
      unsigned* to = stage + item / VECTORS * STRIDE + item % VECTORS * 4;
      const bool inside = k < DEPTH && n < LIMIT;
      optkit_copy<16>(to, data + (static_cast<long long>(k) * LIMIT + n) / TERMS, inside);
    }
  }
  OPTKIT_DEVICE int at(int k, int n) { return TERMS * k * STRIDE + n / TERMS; }
  OPTKIT_DEVICE unsigned word(const unsigned* stage, int k, int n) {
    const unsigned low = stage[at(k, n)];
    if (TERMS == 1) return low;
    const unsigned high = stage[at(k, n) + STRIDE];
    return n % 2 ? low >> 16 | (high & 0xffff0000u) : (low & 0xffffu) | high << 16;
  }
};

// Weights, [OUT / FOURS][IN][TAPS][FOURS][4][WORDS]: OUT times four channels in blocks of FOURS times four.
template <int COLUMNS, int DEEP, int WORDS, int FOURS, int IN, int OUT, int TAPS>
struct OptkitWeights : OptkitFrom {
  typedef OptkitSteps<WORDS, DEEP, IN, TAPS> Steps;
  static const int BLOCKS = Steps::BLOCKS, STRIDE = COLUMNS + 8, SIZE = 8 * DEEP * STRIDE;
  static const int VECTORS = BLOCKS * WORDS, ITEMS = VECTORS * (COLUMNS / 4);  // of 16 bytes
  static_assert(4LL * OUT * IN * TAPS * WORDS < 1LL << 31, "places are 32-bit numbers");

  using OptkitFrom::OptkitFrom;
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
#pragma unroll
    for (int turn = 0; turn < (ITEMS + 128 - 1) / 128; ++turn) {
      const int item = turn * 128 + optkit_thread();
      if (ITEMS % 128 && item >= ITEMS) break;
      const int k = item % VECTORS / WORDS, out = first / 4 + item / VECTORS, part = item % WORDS * 4;
      unsigned* to = stage + (k * STRIDE + item / VECTORS * 4) * WORDS + part;
      const bool inside = Steps::inside(step, k) && (OUT * 4 % COLUMNS == 0 || out < OUT);
      const int place = (out / FOURS * (IN * TAPS) + Steps::place(step, k)) * FOURS + out % FOURS;
      optkit_copy<16>(to, data + (place * (4 * WORDS) + part), inside);
    }
  }
  OPTKIT_DEVICE int at(int k, int n) { return (k / WORDS * STRIDE + n) * WORDS + k % WORDS; }
  OPTKIT_DEVICE unsigned word(const unsigned* stage, int k, int n) { return stage[at(k, n)]; }
};

// Sums of a tile of ROWS x COLUMNS to `tile`, [COLUMNS / 4][ROWS + 1][4], of which the last row is not used: it keeps
// threads that go down or across it on banks of their own. It also holds the operands before, PLANES [ROWS + 1][4] in all.
//   COUNT: steps of the whole sum; part: which of the PARTS
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int COUNT,
          typename Left, typename Right>
struct OptkitTile {
  typedef typename Kind::Sum Sum;
  static const int HEIGHT = ROWS, WIDTH = COLUMNS, BLOCKS = PARTS, THREADS = 128 * SLICES;
  static const int STAGE = Left::SIZE + Right::SIZE;
  static const int ACROSS = ROWS / COLUMNS >= 4 ? 1 : 2, DOWN = 4 / ACROSS;  // warps of a slice
  static const int TILES = ROWS / DOWN / 16, STRIPS = COLUMNS / ACROSS / 8;  // of mma in a warp
  static_assert(SLICES * STAGES * STAGE <= PLANES * (ROWS + 1) * 4, "the operands have to fit");
  static_assert(COLUMNS / 4 <= PLANES, "the sums have to fit");
  static_assert(STAGES >= 2 && 128 % ROWS == 0 && TILES > 0 && STRIPS > 0, "no such tile");

  OPTKIT_DEVICE void run(Sum* tile, const Left& left, const Right& right, int part) {
    const int apart = SLICES * PARTS, slice = optkit_slice(), first = part * SLICES + slice;  // of this slice's steps
    const int lane = optkit_thread() % 32, warp = optkit_thread() / 32;
    unsigned* stages = reinterpret_cast<unsigned*>(tile) + slice * (STAGES * STAGE);
    const int group = lane / 4, quad = lane % 4;
    const int m0 = warp / ACROSS * (TILES * 16) + group, n0 = warp % ACROSS * (STRIPS * 8) + group;
    Sum sums[TILES][STRIPS][4];
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
      for (int j = 0; j < STRIPS; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) sums[i][j][v] = 0;
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) {
      const int step = s * apart + first;
      if (step < COUNT) {
        left.load(stages + s * STAGE, step);
        right.load(stages + s * STAGE + Left::SIZE, step);
      }
      optkit_commit();
    }
    for (int i = 0, place = 0; i * apart + first < COUNT; ++i) {
      optkit_wait<STAGES - 2>();
      if (SLICES == 1) {
        optkit_sync();
      } else {
        optkit_sync_slice();
      }
      const int step = (i + STAGES - 1) * apart + first, free = place == 0 ? STAGES - 1 : place - 1;
      if (step < COUNT) {
        left.load(stages + free * STAGE, step);
        right.load(stages + free * STAGE + Left::SIZE, step);
      }
      optkit_commit();
      const unsigned* a_words = stages + place * STAGE;
      const unsigned* b_words = a_words + Left::SIZE;
      place = place == STAGES - 1 ? 0 : place + 1;
#pragma unroll
      for (int chunk = 0; chunk < DEEP; ++chunk) {
        unsigned a[TILES][4], b[STRIPS][2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int k = chunk * 8 + quad + 4 * h;
#pragma unroll
          for (int i = 0; i < TILES; ++i) {
            a[i][2 * h] = Kind::operand(Left::word(a_words, k, m0 + i * 16));
            a[i][2 * h + 1] = Kind::operand(Left::word(a_words, k, m0 + i * 16 + 8));
          }
#pragma unroll
          for (int j = 0; j < STRIPS; ++j) b[j][h] = Kind::operand(Right::word(b_words, k, n0 + j * 8));
        }
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
          for (int j = 0; j < STRIPS; ++j) Kind::multiply(sums[i][j], a[i], b[j]);
      }
    }
    optkit_wait<0>();
    optkit_sync();
#pragma unroll
    for (int turn = 0; turn < SLICES; ++turn) {
      if (slice == turn) {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
          for (int j = 0; j < STRIPS; ++j)
#pragma unroll
            for (int v = 0; v < 4; ++v) {
              const int m = m0 + i * 16 + v / 2 * 8, n = n0 - group + j * 8 + quad * 2 + v % 2;
              Sum& place = tile[(n / 4 * (ROWS + 1) + m) * 4 + n % 4];
              place = turn ? place + sums[i][j][v] : sums[i][j][v];
            }
      }
      optkit_sync();
    }
  }
};

// A thread block's tile of a convolution of IMAGES images, whose positions are one list.
//   WORDS: of a block of channels in, of which a tile reads IN; FOURS: fours in a block of channels out, OUT in all
//   ALL, SPAN, FROM, TO: blocks in, and groups, as in OptkitImages
//   H, W, OH, OW: extents; H is 0 where they are given to `run`, and IMAGES 1; K, S, D: kernel, stride, dilation; T, L: padding
//   before; FILL: a word of what is read outside
//   column: first output channel; row: first position; next: the second image, where it is not right behind the first
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int WORDS,
          int FOURS, int IN, int OUT, int ALL, int SPAN, int FROM, int TO, int IMAGES, int H, int W, int OH, int OW,
          int KY, int KX, int SY, int SX, int DY, int DX, int T, int L, unsigned FILL>
struct OptkitConv {
  static_assert(IN == ALL || SPAN % COLUMNS == 0, "a tile's columns read the same blocks");
  static_assert(1LL * IMAGES * ALL * H * W * WORDS < 1LL << 31, "places are 32-bit numbers");
  typedef OptkitPositions<ROWS, DEEP, WORDS, IN, IMAGES, H, W, OH, OW, KY, KX, SY, SX, DY, DX, T, L, FILL> Left;
  typedef OptkitWeights<COLUMNS, DEEP, WORDS, FOURS, IN, OUT, KY * KX> Right;
  typedef OptkitTile<Kind, ROWS, COLUMNS, DEEP, STAGES, SLICES, PARTS, PLANES, Left::Steps::COUNT, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* image, const void* kernels, int part, int column,
                         int row, const void* next = 0) {
    typedef OptkitImages<IN, ALL, WORDS * 4 / Kind::WORDS, SPAN, FROM, TO> Images;
    const Images images(image, next, column, H * W * WORDS);
    Tile::run(tile, Left(images.data, row, images.apart, typename Left::Extents()), Right(kernels, column), part);
  }
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* image, const void* kernels, int part, int column,
                         int row, int height, int width, int down, int across) {
    typedef OptkitImages<IN, ALL, WORDS * 4 / Kind::WORDS, SPAN, FROM, TO> Images;
    const Images images(image, 0, column, static_cast<long long>(height) * width * WORDS);
    const typename Left::Extents extents = {height, width, down, across};
    Tile::run(tile, Left(images.data, row, 0, extents), Right(kernels, column), part);
  }
};

// A thread block's tile of the product of M rows, IN blocks of WORDS words deep, and weights of OUT fours of columns, in
// blocks of FOURS. Where M is 0, there are `rows`.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int WORDS,
          int FOURS, int IN, int OUT, int M>
struct OptkitMatmul {
  typedef OptkitSteps<WORDS, DEEP, IN, 1> Steps;
  typedef OptkitRows<ROWS, DEEP, M, IN * WORDS> Left;
  typedef OptkitWeights<COLUMNS, DEEP, WORDS, FOURS, IN, OUT, 1> Right;
  typedef OptkitTile<Kind, ROWS, COLUMNS, DEEP, STAGES, SLICES, PARTS, PLANES, Steps::COUNT, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* matrix, const void* kernels, int part, int column, int row,
                         int rows = 0) {
    Tile::run(tile, Left(matrix, row, rows), Right(kernels, column), part);
  }
};

// A thread block's tile of the product of two matrices, M x 4 IN and 4 IN x N, not of bytes; the second lies transposed,
// or it does not.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int IN, int N,
          int M, int TRANSPOSED>
struct OptkitProduct {
  typedef OptkitSteps<Kind::WORDS, DEEP, IN, 1> Steps;
  typedef OptkitRows<ROWS, DEEP, M, IN * Kind::WORDS> Left;
  template <int transposed, typename Unused>
  struct Choose {
    typedef OptkitRows<COLUMNS, DEEP, N, IN * Kind::WORDS> Type;
  };
  template <typename Unused>
  struct Choose<0, Unused> {
    typedef OptkitColumns<Kind, COLUMNS, DEEP, N, IN * 4> Type;
  };
  typedef typename Choose<TRANSPOSED, void>::Type Right;
  typedef OptkitTile<Kind, ROWS, COLUMNS, DEEP, STAGES, SLICES, PARTS, PLANES, Steps::COUNT, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* left, const void* right, int part, int column,
                         int row) {
    Tile::run(tile, Left(left, row), Right(right, column), part);
  }
};
