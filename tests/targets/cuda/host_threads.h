// A thread block on a CPU: a thread each, warps that meet at mma, copies that arrive when they are waited for.
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
static std::barrier<> *block_barrier, *warp_barrier[4];
static std::atomic<int> bad_copies;  // not aligned, or from outside of the operands
static const unsigned *data_begin, *data_end, *weights_begin, *weights_end;
static unsigned registers_a[128][4], registers_b[128][2];

OPTKIT_DEVICE int optkit_thread() { return thread_index; }
OPTKIT_DEVICE void optkit_sync() { block_barrier->arrive_and_wait(); }
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
  const int warp = thread_index / 32, lane = thread_index % 32, base = warp * 32;
  std::memcpy(registers_a[thread_index], a, 16);
  std::memcpy(registers_b[thread_index], b, 8);
  warp_barrier[warp]->arrive_and_wait();
  const int inner = std::is_integral<Sum>::value ? 4 : 2;  // terms in a word
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
    for (int word = 0; word < 8; ++word) {
      const unsigned x = registers_a[base + row % 8 * 4 + word % 4][row / 8 + word / 4 * 2];
      const unsigned y = registers_b[base + column * 4 + word % 4][word / 4];
      for (int i = 0; i < inner; ++i) c[r] += left_value(Sum(), x, i) * right_value(Sum(), y, i);
    }
  }
  warp_barrier[warp]->arrive_and_wait();
}

template <typename Body>
void run_block(Body body) {
  std::barrier<> block(128), a(32), b(32), c(32), d(32);
  block_barrier = &block;
  warp_barrier[0] = &a, warp_barrier[1] = &b, warp_barrier[2] = &c, warp_barrier[3] = &d;
  std::vector<std::thread> threads;
  for (int i = 0; i < 128; ++i)
    threads.emplace_back([&body, i] {
      thread_index = i;
      body();
    });
  for (auto& thread : threads) thread.join();
}
