// Scaled dot-product attention on tensor cores, softmax(Q K^T SCALE + mask) V, without scores in memory.
//
// A slice of 128 threads takes 64 rows of queries, 16 a warp, and goes over the keys KEYS at a time with a running
// maximum and sum a row (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao, "FlashAttention-2",
// 2023). Halves or bfloat16 are multiplied, everything else is float. A row without a finite score gives NaN, as a softmax
// does.

// Two floats rounded to what is multiplied, the first in the low bits.
OPTKIT_DEVICE unsigned optkit_pair(OptkitHalves, float low, float high) { return optkit_halves(low, high); }
OPTKIT_DEVICE unsigned optkit_pair(OptkitBfloats, float low, float high) { return optkit_bfloats(low, high); }

// Rows of a matrix of 16-bit numbers, [limit][DEPTH], DEPTH a multiple of 8, of which COUNT are held; from one to the next
// are APART numbers. Steps of 16: past DEPTH, zeros.
template <int COUNT, int DEPTH, int APART>
struct OptkitHeads {
  static const int STEPS = (DEPTH + 15) / 16, STRIDE = STEPS * 8 + 4, SIZE = COUNT * STRIDE, VECTORS = STEPS * 2;
  static const int ITEMS = COUNT * VECTORS;
  OPTKIT_DEVICE void load(unsigned* to, const void* matrix, int first, int limit) {
    const unsigned* data = static_cast<const unsigned*>(matrix);
#pragma unroll
    for (int turn = 0; turn < (ITEMS + 128 - 1) / 128; ++turn) {
      const int item = turn * 128 + optkit_thread();
      if (ITEMS % 128 && item >= ITEMS) break;
      const int row = item / VECTORS, vector = item % VECTORS;
      unsigned* place = to + row * STRIDE + vector * 4;
      const bool inside = first + row < limit && vector * 8 < DEPTH;
      optkit_copy<16>(place, data + (static_cast<long long>(first + row) * (APART / 2) + vector * 4), inside);
    }
  }
};

// Rows `row` to `row` + 63 of one head to `tile`, [E / 4][65][4].
//   M, N: queries and keys, 0 where `run` is given them; D, E: depth of queries and keys, and of values
//   Q, K, V: numbers from one row of queries, keys and values to the next
//   MASKED: there is a mask; DOWN, ACROSS: its elements from one row, -1 for as many as there are keys, and one column, to
//   the next
template <typename Kind, int KEYS, int PLANES, int M, int N, int D, int E, int Q, int K, int V, int MASKED, int DOWN, int ACROSS>
struct OptkitAttention {
  static const int ROWS = 64, STRIPS = KEYS / 8;
  typedef OptkitHeads<ROWS, D, Q> Query;
  typedef OptkitHeads<KEYS, D, K> Key;
  typedef OptkitHeads<KEYS, E, V> Value;
  static const int STAGE = Key::SIZE + Value::SIZE, COLUMNS = Value::STEPS * 2;  // strips of values
  static_assert(Query::SIZE + 2 * STAGE <= PLANES * (ROWS + 1) * 4 && E / 4 <= PLANES, "the operands have to fit");
  static_assert(KEYS % 16 == 0 && D % 8 == 0 && E % 8 == 0 && Q % 8 + K % 8 + V % 8 == 0, "no such attention");

  OPTKIT_DEVICE void run(float* tile, const void* query, const void* key, const void* value, const void* mask,
                         float scale, int, int row, int rows = M, int columns = N) {
    unsigned* memory = reinterpret_cast<unsigned*>(tile);
    unsigned* stages = memory + Query::SIZE;
    const int lane = optkit_thread() % 32, warp = optkit_thread() / 32, group = lane / 4, quad = lane % 4;
    const int count = (columns + KEYS - 1) / KEYS;
    float sums[COLUMNS][4], top[2], total[2];
    unsigned q[Query::STEPS][4];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
      for (int v = 0; v < 4; ++v) sums[j][v] = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) top[h] = -INFINITY, total[h] = 0;
    Query::load(memory, query, row, rows);
    Key::load(stages, key, 0, columns);
    Value::load(stages + Key::SIZE, value, 0, columns);
    optkit_commit();
    for (int step = 0; step < count; ++step) {
      if (step + 1 < count) {
        unsigned* next = stages + (step + 1) % 2 * STAGE;
        Key::load(next, key, (step + 1) * KEYS, columns);
        Value::load(next + Key::SIZE, value, (step + 1) * KEYS, columns);
      }
      optkit_commit();
      optkit_wait<1>();
      optkit_sync();
      if (step == 0) {
#pragma unroll
        for (int k = 0; k < Query::STEPS; ++k)
#pragma unroll
          for (int r = 0; r < 4; ++r)
            q[k][r] = memory[(warp * 16 + group + r % 2 * 8) * Query::STRIDE + k * 8 + quad + r / 2 * 4];
      }
      const unsigned* keys = stages + step % 2 * STAGE;
      float scores[STRIPS][4];
#pragma unroll
      for (int j = 0; j < STRIPS; ++j) {
#pragma unroll
        for (int v = 0; v < 4; ++v) scores[j][v] = 0;
#pragma unroll
        for (int k = 0; k < Query::STEPS; ++k) {
          const unsigned* from = keys + (j * 8 + group) * Key::STRIDE + k * 8 + quad;
          const unsigned b[2] = {from[0], from[4]};
          Kind::multiply(scores[j], q[k], b);
        }
      }
      weigh(scores, sums, top, total, static_cast<const float*>(mask), scale, row + warp * 16 + group, step * KEYS + quad * 2,
            rows, columns);
      const unsigned* values = keys + Key::SIZE;
#pragma unroll
      for (int k = 0; k < KEYS / 16; ++k) {
        const unsigned a[4] = {
            optkit_pair(Kind(), scores[2 * k][0], scores[2 * k][1]), optkit_pair(Kind(), scores[2 * k][2], scores[2 * k][3]),
            optkit_pair(Kind(), scores[2 * k + 1][0], scores[2 * k + 1][1]),
            optkit_pair(Kind(), scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
        for (int j = 0; j < COLUMNS; j += 2) {
          unsigned b[4];
          optkit_transposed(b, values + (k * 16 + lane % 16) * Value::STRIDE + (j + lane / 16) * 4);
          Kind::multiply(sums[j], a, b);
          Kind::multiply(sums[j + 1], a, b + 2);
        }
      }
      optkit_sync();
    }
    if (count == 0) {  // nothing is known of copies of queries, whose place the tile takes
      optkit_wait<0>();
      optkit_sync();
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += optkit_other_lane(total[h], 1);
      total[h] += optkit_other_lane(total[h], 2);
    }
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int n = j * 8 + quad * 2 + v % 2, m = warp * 16 + group + v / 2 * 8;
        if (n < E) tile[(n / 4 * (ROWS + 1) + m) * 4 + n % 4] = count ? sums[j][v] / total[v / 2] : 0;
      }
    optkit_sync();
  }

  // Scores to powers of two, less the largest so far; sums and totals to that largest.
  OPTKIT_DEVICE void weigh(float (*scores)[4], float (*sums)[4], float* top, float* total, const float* mask,
                           float scale, int row, int column, int rows, int columns) {
    const float base = 1.4426950408889634f;  // log2 e
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = top[h];
#pragma unroll
      for (int j = 0; j < STRIPS; ++j)
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          const int m = row + h * 8, n = column + j * 8 + v;
          float& score = scores[j][2 * h + v];
          score *= scale * base;
          if (MASKED && m < rows && n < columns) {
            score += mask[static_cast<long long>(m) * (DOWN < 0 ? columns : DOWN) + n * ACROSS] * base;
          }
          if (n >= columns) score = -INFINITY;
          largest = fmaxf(largest, score);
        }
      largest = fmaxf(largest, optkit_other_lane(largest, 1));
      largest = fmaxf(largest, optkit_other_lane(largest, 2));
      const float less = largest == -INFINITY ? 0 : largest, shrink = optkit_exp2(top[h] - less);
      top[h] = largest;
      total[h] *= shrink;
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) sums[j][2 * h] *= shrink, sums[j][2 * h + 1] *= shrink;
#pragma unroll
      for (int j = 0; j < STRIPS; ++j)
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          float& score = scores[j][2 * h + v];
          score = optkit_exp2(score - less);
          total[h] += score;
        }
    }
  }
};
