// Convolutions of stride 1 by warpgroups whose taps share what they read: a tile keeps the positions around it, and every
// tap multiplies a window of them.
//
// Images are cut into strips of STRIP columns, and a strip's lines of PITCH positions lie one behind the other, LINES of
// them a strip, the halo of padding or of the next strip's columns among them. So a tap's operand is the tile's own
// positions moved by as many for every one of them: it begins elsewhere. What a tile sums between lines nobody reads.
// Where one strip is an image, lines share their halo, and so do images.

// Operands of a tile: its ROWS positions and the HALO of them behind that its taps reach, as [chunks][positions][4 words].
template <int ROWS, int DEEP, int WORDS, int STRIP, int PITCH, int LINES, int IN, int IMAGES, int H, int W, int OH, int OW,
          int KY, int KX, int DY, int DX, int T, int L, unsigned FILL>
struct OptkitStrips {
  static const int STRIPS = (OW + STRIP - 1) / STRIP, THREADS = 2 * ROWS;
  static const int HALO = (KY - 1) * DY * PITCH + (KX - 1) * DX, COUNT = ROWS + HALO;
  static const int TURNS = (COUNT + THREADS - 1) / THREADS, CHUNKS = 2 * DEEP, SIZE = CHUNKS * COUNT * 4;
  static_assert(WORDS == 4, "a block of channels is a chunk");
  const unsigned* data;
  int place[TURNS];

  OPTKIT_MEMBER OptkitStrips(const unsigned* image, int first, int apart) : data(image) {
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
      const int position = first + i * THREADS + optkit_index(), line = position / PITCH, strip = line / LINES;
      const int x = position % PITCH + strip % STRIPS * STRIP - L, y = line % LINES - T;
      const bool inside = strip / STRIPS < IMAGES && x >= 0 && x < W && y >= 0 && y < H;
      place[i] = inside ? strip / STRIPS * apart + (y * W + x) * 4 : -4;  // an address, though it is not read
    }
  }
  OPTKIT_DEVICE int shift(int tap) { return tap / KX * DY * PITCH + tap % KX * DX; }
  OPTKIT_MEMBER void load(unsigned* stage, int group) const { load(stage, group, 0, CHUNKS); }
  // Chunks from one on, up to another one, of a group of them.
  OPTKIT_MEMBER void load(unsigned* stage, int group, int from, int to) const {
#pragma unroll
    for (int chunk = from; chunk < to; ++chunk) {
      const int block = group * CHUNKS + chunk;
      const bool has = IN % CHUNKS == 0 || block < IN;
#pragma unroll
      for (int i = 0; i < TURNS; ++i) {
        const int row = i * THREADS + optkit_index();
        if ((i + 1) * THREADS > COUNT && row >= COUNT) break;
        const bool inside = has && place[i] >= 0;
        optkit_fill<16, FILL>(stage + (chunk * COUNT + row) * 4, data + block * (H * W * 4) + place[i], inside);
      }
    }
  }
};

// As OptkitWideTile; PARTS divide the groups of chunks. While the taps of one group are multiplied the next one arrives.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int PARTS, int PLANES, int GROUPS, typename Left,
          typename Right>
struct OptkitStripTile {
  typedef typename Kind::Sum Sum;
  static const int HEIGHT = ROWS, WIDTH = COLUMNS, BLOCKS = PARTS, THREADS = 2 * ROWS;
  static const int TAPS = Right::Steps::COUNT / GROUPS, STEPS = GROUPS / PARTS * TAPS;
  static const int STAGE = 8 * DEEP * COLUMNS, AHEAD = STAGES - 2, SIZE = 2 * Left::SIZE + STAGES * STAGE;
  // Taps at which the next group may be on its way: this one's first has to be done with the buffer, and it is waited for.
  static const int SHARES = TAPS - 1 - AHEAD, SHARE = (Left::CHUNKS + SHARES - 1) / SHARES;
  static_assert(SIZE <= PLANES * (ROWS + 1) * 4 && COLUMNS / 4 <= PLANES, "the tile has to fit");
  static_assert(STAGES >= 3 && ROWS % 64 == 0 && DEEP % 2 == 0 && SHARES >= 1, "no such tile");
  static_assert(!Right::Steps::FLAT && GROUPS % PARTS == 0, "a step is of one tap, and parts are equal");

  OPTKIT_DEVICE void run(Sum* tile, const Left& left, const Right& right, int part) {
    unsigned* kept = reinterpret_cast<unsigned*>(tile);
    unsigned* stages = kept + 2 * Left::SIZE;
    const int rows = optkit_index() / 128 * 64, first = PARTS == 1 ? 0 : part * (GROUPS / PARTS);
    Sum sums[COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; ++i) sums[i] = 0;
    left.load(kept, first);
#pragma unroll
    for (int s = 0; s < AHEAD; ++s) {
      right.load(stages + s * STAGE, first * TAPS + s);
      optkit_commit();
    }
    for (int group = 0, place = 0; group < GROUPS / PARTS; ++group) {
      const unsigned* here = kept + group % 2 * Left::SIZE;
      unsigned* next = kept + (group + 1) % 2 * Left::SIZE;
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap) {
        optkit_wait<AHEAD - 1>();
        optkit_publish();
        optkit_sync();
        const unsigned* a = here + Left::shift(tap) * 4;
        const unsigned* b = stages + place * STAGE;
        optkit_begin();
#pragma unroll
        for (int k = 0; k < DEEP; ++k) {
          Kind::multiply(sums, optkit_matrix(optkit_address(a + (2 * k * Left::COUNT + rows) * 4), Left::COUNT * 16, 128),
                         optkit_matrix(optkit_address(b + 2 * k * COLUMNS * 4), COLUMNS * 16, 128));
        }
        optkit_end();
        const int free = place + AHEAD < STAGES ? place + AHEAD : place + AHEAD - STAGES;
        const int step = group * TAPS + tap + AHEAD;
        if (step < STEPS) right.load(stages + free * STAGE, first * TAPS + step);
        if (tap >= 1 && tap <= SHARES && group + 1 < GROUPS / PARTS) {
          const int from = (tap - 1) * SHARE, to = from + SHARE;
          left.load(next, first + group + 1, from, to < Left::CHUNKS ? to : Left::CHUNKS);
        }
        optkit_commit();
        optkit_finish<1>(sums);
        place = place == STAGES - 1 ? 0 : place + 1;
      }
    }
    optkit_finish<0>(sums);
    optkit_wait<0>();
    optkit_sync();
    optkit_leave<ROWS>(tile, sums, rows);
    optkit_sync();
  }
};

// As OptkitConv, of stride 1. `row` is a position of strips.
template <typename Kind, int ROWS, int COLUMNS, int DEEP, int STAGES, int SLICES, int PARTS, int PLANES, int STRIP,
          int PITCH, int LINES, int WORDS, int FOURS, int IN, int OUT, int ALL, int SPAN, int FROM, int TO, int IMAGES,
          int H, int W, int OH, int OW, int KY, int KX, int SY, int SX, int DY, int DX, int T, int L, unsigned FILL>
struct OptkitStripConv {
  static_assert(IN == ALL || SPAN % COLUMNS == 0, "a tile's columns read the same blocks");
  static_assert(1LL * IMAGES * ALL * H * W * WORDS < 1LL << 31, "places are 32-bit numbers");
  static_assert(SY == 1 && SX == 1, "neighbours read neighbours");
  static const int GROUPS = (IN + 2 * DEEP - 1) / (2 * DEEP);
  typedef OptkitStrips<ROWS, DEEP, WORDS, STRIP, PITCH, LINES, IN, IMAGES, H, W, OH, OW, KY, KX, DY, DX, T, L, FILL> Left;
  typedef OptkitWideWeights<2 * ROWS, COLUMNS, DEEP, WORDS, FOURS, IN, OUT, KY * KX> Right;
  typedef OptkitStripTile<Kind, ROWS, COLUMNS, DEEP, STAGES, PARTS, PLANES, GROUPS, Left, Right> Tile;
  OPTKIT_DEVICE void run(typename Kind::Sum* tile, const void* image, const void* kernels, int part, int column, int row,
                         const void* next = 0) {
    typedef OptkitImages<IN, ALL, WORDS * 4 / Kind::WORDS, SPAN, FROM, TO> Images;
    const Images images(image, next, column, H * W * WORDS);
    Tile::run(tile, Left(images.data, row, images.apart), Right(kernels, column), part);
  }
};
