// A thread block on a CPU: a thread each, warps that meet at mma, copies that arrive when they are waited for.
// Slices of 128 threads, as many as SLICES_OF_BLOCK says.
#pragma once
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <thread>
#include <type_traits>
#include <vector>

#define OPTKIT_HOST
#define OPTKIT_DEVICE static inline
#define OPTKIT_MEMBER inline

struct Copy {
  unsigned* to;
  const unsigned* from;
  int bytes;
};
static thread_local int thread_index;
static thread_local std::vector<Copy> uncommitted;
static thread_local std::deque<std::vector<Copy>> groups;
static const int MOST = 128 * SLICES_OF_BLOCK;
static std::barrier<> *block_barrier, *slice_barrier[SLICES_OF_BLOCK], *warp_barrier[MOST / 32];
static std::atomic<int> bad_copies;  // not aligned, or from outside of the operands
static const unsigned *data_begin, *data_end, *weights_begin, *weights_end;
static unsigned registers_a[MOST][4], registers_b[MOST][2];
static const std::uint16_t* addresses[MOST];
static float exchanged[MOST];

OPTKIT_DEVICE int optkit_thread() { return thread_index % 128; }
OPTKIT_DEVICE int optkit_slice() { return thread_index / 128; }
OPTKIT_DEVICE void optkit_sync() { block_barrier->arrive_and_wait(); }
OPTKIT_DEVICE void optkit_sync_slice() { slice_barrier[optkit_slice()]->arrive_and_wait(); }
static void meet() { warp_barrier[thread_index / 32]->arrive_and_wait(); }
template <int bytes>
OPTKIT_DEVICE void optkit_copy(unsigned* to, const unsigned* from) {
  const unsigned* end = from + bytes / 4;
  const bool inside = (from >= data_begin && end <= data_end) || (from >= weights_begin && end <= weights_end);
  if (!inside || reinterpret_cast<std::uintptr_t>(to) % bytes || reinterpret_cast<std::uintptr_t>(from) % bytes) {
    bad_copies++;
    return;
  }
  uncommitted.push_back({to, from, bytes});
}
OPTKIT_DEVICE void optkit_commit() {
  groups.push_back(uncommitted);
  uncommitted.clear();
}
template <int pending>
OPTKIT_DEVICE void optkit_wait() {
  while (groups.size() > pending) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.pop_front();
  }
}

static float half(unsigned bits) {
  const int sign = bits >> 15 & 1, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 31) return mantissa ? NAN : sign ? -INFINITY : INFINITY;
  const float value = exponent ? std::ldexp(1024.f + mantissa, exponent - 25) : std::ldexp(float(mantissa), -24);
  return sign ? -value : value;
}
static int left_value(int, unsigned word, int i) { return word >> 8 * i & 255; }
static int right_value(int, unsigned word, int i) { return static_cast<std::int8_t>(word >> 8 * i & 255); }
static float left_value(float, unsigned word, int i) { return half(word >> 16 * i & 65535); }
static float right_value(float, unsigned word, int i) { return half(word >> 16 * i & 65535); }

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k32": of a, register r of
// lane l holds row l / 4 (+ 8 where r is odd) and word l % 4 (+ 4 where r >= 2); of b, column l / 4 and word l % 4
// (+ 4 where r = 1); of c, row l / 4 (+ 8 where r >= 2) and column 2 (l % 4) + r % 2.
template <typename Sum>
OPTKIT_DEVICE void optkit_mma(Sum* c, const unsigned* a, const unsigned* b) {
  const int lane = thread_index % 32, base = thread_index - lane;
  std::memcpy(registers_a[thread_index], a, 16);
  std::memcpy(registers_b[thread_index], b, 8);
  meet();
  const int inner = std::is_integral<Sum>::value ? 4 : 2;  // terms in a word
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
    for (int word = 0; word < 8; ++word) {
      const unsigned x = registers_a[base + row % 8 * 4 + word % 4][row / 8 + word / 4 * 2];
      const unsigned y = registers_b[base + column * 4 + word % 4][word / 4];
      for (int i = 0; i < inner; ++i) c[r] += left_value(Sum(), x, i) * right_value(Sum(), y, i);
    }
  }
  meet();
}

// PTX ISA, "ldmatrix": register i of lane l holds of matrix i elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, here
// of the transposed matrix; lane l gives the address of row l % 8 of matrix l / 8.
OPTKIT_DEVICE void optkit_transposed(unsigned* words, const unsigned* from) {
  const int lane = thread_index % 32, base = thread_index - lane;
  if (reinterpret_cast<std::uintptr_t>(from) % 16) bad_copies++;
  addresses[thread_index] = reinterpret_cast<const std::uint16_t*>(from);
  meet();
  for (int i = 0; i < 4; ++i) {
    const std::uint16_t *low = addresses[base + 8 * i + lane % 4 * 2], *high = addresses[base + 8 * i + lane % 4 * 2 + 1];
    words[i] = low[lane / 4] | static_cast<unsigned>(high[lane / 4]) << 16;
  }
  meet();
}
static unsigned to_half(float value) {
  const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
  if (std::isnan(value)) return 0x7fffu;
  const float size = std::fabs(value);
  if (size >= 65520.f) return sign | 0x7c00u;
  if (size < std::ldexp(1.f, -14)) return sign | static_cast<unsigned>(std::nearbyint(std::ldexp(size, 24)));
  int exponent;
  const float mantissa = std::nearbyint(std::ldexp(std::frexp(size, &exponent), 11));  // 1024 to 2048
  return sign | static_cast<unsigned>((exponent + 13) * 1024 + static_cast<int>(mantissa));
}
OPTKIT_DEVICE unsigned optkit_halves(float low, float high) { return to_half(low) | to_half(high) << 16; }
OPTKIT_DEVICE float optkit_exp2(float x) { return std::exp2(x); }
OPTKIT_DEVICE float optkit_other_lane(float x, int bit) {
  exchanged[thread_index] = x;
  meet();
  const float y = exchanged[thread_index ^ bit];
  meet();
  return y;
}

template <typename Body>
void run_block(Body body) {
  std::barrier<> block(MOST);
  block_barrier = &block;
  for (auto& barrier : slice_barrier) barrier = new std::barrier<>(128);
  for (auto& barrier : warp_barrier) barrier = new std::barrier<>(32);
  std::vector<std::thread> threads;
  for (int i = 0; i < MOST; ++i)
    threads.emplace_back([&body, i] {
      thread_index = i;
      body();
      if (!uncommitted.empty()) bad_copies++;
    });
  for (auto& thread : threads) thread.join();
  for (auto& barrier : slice_barrier) delete barrier;
  for (auto& barrier : warp_barrier) delete barrier;
}
