// Tiles of convolutions and products by instructions of whole warpgroups (compute capability 9.0: wgmma), which read both
// operands from shared memory while the next ones are on their way there.
//
// An operand lies there as [chunks of 4 words along the sum][rows or columns][4 words]: eight neighbours of a chunk are a
// core matrix, 128 bytes side by side (PTX ISA, "Shared Memory Matrix Layout", K-major without swizzling). Code for
// other GPUs, which PTX is compiled to, reads the same layout with mma: a fragment's register is on 32 banks.

// Descriptor of a matrix of core matrices: `along` and `across` bytes from one to the next along the sum and the rows.
OPTKIT_DEVICE unsigned long long optkit_matrix(unsigned address, int along, int across) {
  return (address & 0x3ffff) >> 4 | static_cast<unsigned long long>(along >> 4) << 16 |
         static_cast<unsigned long long>(across >> 4) << 32;
}

// What THREADS threads copy of chunks of COUNT rows or columns, each of them 4 / WORDS pieces: ACROSS pieces at a time
// of DOWN chunks. A thread's rows are the outer loop: so their places are few.
template <int THREADS, int COUNT, int WORDS>
struct OptkitPieces {
  static const int PARTS = 4 / WORDS, PIECES = COUNT * PARTS;
  static const int ACROSS = PIECES < THREADS ? PIECES : THREADS, DOWN = THREADS / ACROSS, TURNS = PIECES / ACROSS;
  static_assert(PIECES % ACROSS == 0 && THREADS % ACROSS == 0, "threads have to divide the pieces");
  OPTKIT_DEVICE int row(int turn) { return (turn * ACROSS + optkit_index() % ACROSS) / PARTS; }
  OPTKIT_DEVICE int part() { return optkit_index() % ACROSS % PARTS; }
  OPTKIT_DEVICE int chunk(int turn) { return turn * DOWN + optkit_index() / ACROSS; }
};

// Positions of images, as OptkitPositions.
template <int ROWS, int DEEP, int WORDS, int IN, int IMAGES, int H, int W, int OH, int OW, int KY, int KX, int SY, int SX,
          int DY, int DX, int T, int L, unsigned FILL>
struct OptkitWidePositions {
  typedef OptkitSteps<WORDS, DEEP, IN, KY * KX> Steps;
  typedef OptkitPieces<2 * ROWS, ROWS, WORDS> Pieces;
  typedef OptkitExtents<H, W, OH, OW> Extents;
  static const bool WHOLE = !Extents::OPEN && IMAGES * OH * OW % ROWS == 0;  // tiles
  static const bool POINTWISE = KY * KX * SY * SX == 1 && T == 0 && L == 0 && H == OH && W == OW;
  static_assert(2 * DEEP % Pieces::DOWN == 0, "threads have to divide the chunks");
  const unsigned* data;
  Extents extents;
  int row[Pieces::TURNS], base[Pieces::TURNS], y[Pieces::TURNS], x[Pieces::TURNS];

  OPTKIT_MEMBER OptkitWidePositions(const unsigned* image, int first, int apart, Extents given)
      : data(image), extents(given) {
    const int across = extents.across(), all = extents.down() * across;
#pragma unroll
    for (int i = 0; i < Pieces::TURNS; ++i) {
      row[i] = first + Pieces::row(i);
      const int place = IMAGES == 1 ? row[i] : row[i] % all;
      base[i] = IMAGES == 1 ? 0 : row[i] / all * apart;
      y[i] = place / across * SY - T, x[i] = place % across * SX - L;
    }
  }
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
    const int height = extents.height(), width = extents.width();
#pragma unroll
    for (int turn = 0; turn < 2 * DEEP / Pieces::DOWN; ++turn) {
      const int chunk = Pieces::chunk(turn), k = chunk * Pieces::PARTS + Pieces::part();
      const int block = Steps::block(step, k), tap = Steps::tap(step, k);
#pragma unroll
      for (int i = 0; i < Pieces::TURNS; ++i) {
        const int iy = y[i] + tap / KX * DY, ix = x[i] + tap % KX * DX;
        unsigned* to = stage + (chunk * ROWS + Pieces::row(i)) * 4 + Pieces::part() * WORDS;
        const bool inside = (WHOLE || row[i] < IMAGES * extents.down() * extents.across()) && Steps::inside(step, k) &&
                            (POINTWISE || (iy >= 0 && iy < height && ix >= 0 && ix < width));
        const int place = block * (height * width) + iy * width + ix;
        const unsigned* from = data + base[i] + static_cast<typename Extents::Place>(place) * WORDS;
        optkit_fill<4 * WORDS, FILL>(to, from, inside);
      }
    }
  }
};

// Rows of a matrix, as OptkitRows, of which thread blocks take so many TOGETHER.
template <int THREADS, int COUNT, int DEEP, int LIMIT, int DEPTH, int TOGETHER = COUNT>
struct OptkitWideRows : OptkitFromRows<LIMIT, TOGETHER> {
  static const int ITEMS = 2 * DEEP * COUNT;

  using OptkitFromRows<LIMIT, TOGETHER>::OptkitFromRows;
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
#pragma unroll
    for (int turn = 0; turn < (ITEMS + THREADS - 1) / THREADS; ++turn) {
      const int item = turn * THREADS + optkit_index();
      if (ITEMS % THREADS && item >= ITEMS) break;
      // Eight lanes write a core matrix; a warp reads pieces of 64 bytes.
      const int m = item % 8 + item / 32 % (COUNT / 8) * 8, chunk = item / 8 % 4 + item / (4 * COUNT) * 4;
      const int k = step * (8 * DEEP) + chunk * 4;
      unsigned* to = stage + (chunk * COUNT + m) * 4;
      const bool inside = this->has(this->first + m) && (DEPTH % (8 * DEEP) == 0 || k < DEPTH);
      optkit_copy<16>(to, this->data + (static_cast<long long>(this->first + m) * DEPTH + k), inside);
    }
  }
};

// Weights, as OptkitWeights.
template <int THREADS, int COLUMNS, int DEEP, int WORDS, int FOURS, int IN, int OUT, int TAPS>
struct OptkitWideWeights : OptkitFrom {
  typedef OptkitSteps<WORDS, DEEP, IN, TAPS> Steps;
  typedef OptkitPieces<THREADS, COLUMNS, WORDS> Pieces;
  static const int CHUNKS = 2 * DEEP, TURNS = (CHUNKS + Pieces::DOWN - 1) / Pieces::DOWN;
  static_assert(4LL * OUT * IN * TAPS * WORDS < 1LL << 31, "places are 32-bit numbers");

  using OptkitFrom::OptkitFrom;
  OPTKIT_MEMBER void load(unsigned* stage, int step) const {
#pragma unroll
    for (int i = 0; i < Pieces::TURNS; ++i) {
      const int n = Pieces::row(i), out = first / 4 + n / 4;
#pragma unroll
      for (int turn = 0; turn < TURNS; ++turn) {
        const int chunk = Pieces::chunk(turn);
        if (CHUNKS % Pieces::DOWN && chunk >= CHUNKS) break;
        const int k = chunk * Pieces::PARTS + Pieces::part();
        unsigned* to = stage + (chunk * COLUMNS + n) * 4 + Pieces::part() * WORDS;
        const bool inside = Steps::inside(step, k) && (OUT * 4 % COLUMNS == 0 || out < OUT);
        const int place = (out / FOURS * (IN * TAPS) + Steps::place(step, k)) * FOURS + out % FOURS;
        optkit_copy<4 * WORDS>(to, data + (place * 4 + n % 4) * WORDS, inside);
      }
    }
  }
};

// What the threads of a warpgroup, whose first row this is, have summed, where a tile's sums belong; of every HALVES core
// matrices' columns those of one.
template <int ROWS, int HALVES = 1, typename Sum, int COUNT>
OPTKIT_DEVICE void optkit_leave(Sum* tile, const Sum (&sums)[COUNT], int group, int half = 0) {
  const int lane = optkit_thread() % 32, m = group + optkit_thread() / 32 * 16 + lane / 4, n = lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const int column = (i / 4 * HALVES + half) * 8 + n + i % 2;
    tile[(column / 4 * (ROWS + 1) + m + i / 2 % 2 * 8) * 4 + column % 4] = sums[i];
  }
}

// As OptkitTile, by a warpgroup for every 64 rows; PARTS divide the steps. Of STAGES buffers one is read, one was read
// until a moment ago, and the others are being filled.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int PARTS, int PLANES, int STEPS, typename Left,
          typename Right>
struct OptkitWideTile {
  typedef typename Kind::Sum Sum;
  static const int HEIGHT = ROWS, WIDTH = COLUMNS, BLOCKS = PARTS, THREADS = 2 * ROWS, COUNT = STEPS / PARTS;
  static const int LEFT = 8 * DEEP * ROWS, STAGE = LEFT + 8 * DEEP * COLUMNS, AHEAD = STAGES - 2;
  static_assert(STAGES * STAGE <= PLANES * (ROWS + 1) * 4 && COLUMNS / 4 <= PLANES, "the tile has to fit");
  static_assert(STAGES >= 3 && ROWS % 64 == 0 && DEEP % 2 == 0 && STEPS % PARTS == 0, "no such tile");

  OPTKIT_DEVICE void run(Sum* tile, const Left& left, const Right& right, int part) {
    unsigned* stages = reinterpret_cast<unsigned*>(tile);
    const int group = optkit_index() / 128 * 64, first = PARTS == 1 ? 0 : part * COUNT;
    Sum sums[COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; ++i) sums[i] = 0;
#pragma unroll
    for (int s = 0; s < AHEAD; ++s) {
      if (s < COUNT) {
        left.load(stages + s * STAGE, first + s);
        right.load(stages + s * STAGE + LEFT, first + s);
      }
      optkit_commit();
    }
    for (int step = 0, place = 0; step < COUNT; ++step) {
      optkit_wait<AHEAD - 1>();
      optkit_publish();
      optkit_sync();
      const unsigned* a = stages + place * STAGE;
      const unsigned* b = a + LEFT;
      optkit_begin();
#pragma unroll
      for (int k = 0; k < DEEP; ++k) {
        Kind::multiply(sums, optkit_matrix(optkit_address(a + (2 * k * ROWS + group) * 4), ROWS * 16, 128),
                       optkit_matrix(optkit_address(b + 2 * k * COLUMNS * 4), COLUMNS * 16, 128));
      }
      optkit_end();
      const int free = place + AHEAD < STAGES ? place + AHEAD : place + AHEAD - STAGES;
      if (step + AHEAD < COUNT) {
        left.load(stages + free * STAGE, first + step + AHEAD);
        right.load(stages + free * STAGE + LEFT, first + step + AHEAD);
      }
      optkit_commit();
      optkit_finish<1>(sums);
      place = place == STAGES - 1 ? 0 : place + 1;
    }
    optkit_finish<0>(sums);
    optkit_wait<0>();
    optkit_sync();
    optkit_leave<ROWS>(tile, sums, group);
    optkit_sync();
  }
};

// As OptkitConv.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int WORDS,
          int FOURS, int IN, int OUT, int ALL, int SPAN, int FROM, int TO, int IMAGES, int H, int W, int OH, int OW,
          int KY, int KX, int SY, int SX, int DY, int DX, int T, int L, unsigned FILL>
struct OptkitWideConv {
  static_assert(IN == ALL || SPAN % COLUMNS == 0, "a tile's columns read the same blocks");
  static_assert(1LL * IMAGES * ALL * H * W * WORDS < 1LL << 31, "places are 32-bit numbers");
  typedef OptkitWidePositions<ROWS, DEEP, WORDS, IN, IMAGES, H, W, OH, OW, KY, KX, SY, SX, DY, DX, T, L, FILL> Left;
  typedef OptkitWideWeights<2 * ROWS, COLUMNS, DEEP, WORDS, FOURS, IN, OUT, KY * KX> Right;
  typedef OptkitWideTile<Kind, ROWS, COLUMNS, DEEP, STAGES, PARTS, PLANES, Left::Steps::COUNT, Left, Right> Tile;
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

// As OptkitMatmul.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int WORDS,
          int FOURS, int IN, int OUT, int M>
struct OptkitWideMatmul {
  typedef OptkitSteps<WORDS, DEEP, IN, 1> Steps;
  typedef OptkitWideRows<2 * ROWS, ROWS, DEEP, M, IN * WORDS> Left;
  typedef OptkitWideWeights<2 * ROWS, COLUMNS, DEEP, WORDS, FOURS, IN, OUT, 1> Right;
  typedef OptkitWideTile<Kind, ROWS, COLUMNS, DEEP, STAGES, PARTS, PLANES, Steps::COUNT, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* matrix, const void* kernels, int part, int column, int row,
                         int rows = 0) {
    Tile::run(tile, Left(matrix, row, rows), Right(kernels, column), part);
  }
};
