// CUDA C++ on a CPU: the threads of a block are fibers that take turns at barriers; blocks run one after the other, those
// of a cluster together.
//
// Included before kernels that g++ compiles. What tensor cores and asynchronous copies do follows the PTX ISA: copies
// arrive when they are waited for, and no earlier.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#undef __global__
#undef __device__
#undef __launch_bounds__
#define __global__
#define __device__
#define __launch_bounds__(...)
#define OPTKIT_HOST
#define OPTKIT_DEVICE static inline
#define OPTKIT_MEMBER inline

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace emulator {

struct Copy {
  unsigned* to;
  const unsigned* from;
  int bytes;
};
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint3 index;
  int slot;  // of its block in the cluster
  std::size_t declared;  // bytes of shared memory
  bool done;
  std::vector<Copy> uncommitted;
  std::deque<std::vector<Copy>> groups;
  bool unpublished;
  std::vector<std::function<void()>> products;
  std::deque<std::vector<std::function<void()>>> product_groups;
};
struct Barrier {
  int count = 0;
  unsigned generation = 0;
};

// A thread block that runs: its barriers and shared memory.
struct Block {
  static const std::size_t STATIC = 48 << 10, SHARED = STATIC + (227 << 10), ALIGNED = 1024;
  uint3 index;
  Barrier all, slices[8], warps[32], some[1024];  // `some`: of a warp, by the first of them
  std::unique_ptr<char[]> memory;
  char* shared;
  const char* near;  // somewhere in its shared memory
  int running;
};

static const std::size_t STACK = 64 << 10;
static const int LARGEST_CLUSTER = 8;
static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<std::unique_ptr<Block>> blocks;
static Barrier cluster_barrier;
// A barrier in shared memory that counts arrivals and bytes, and copies to where it is that have not arrived.
struct Counter {
  int count, pending, bytes = 0;
  unsigned phase = 0;
  std::vector<Copy> copies = {};
};
static std::map<const void*, Counter> counters;
static ucontext_t scheduler;
static int current, running, clustered, problems;
static long followed;
static bool moved, backwards;
static void (*body)(void*);
static void* body_data;
// What asynchronous copies may read; anything where it is empty.
static std::vector<std::pair<const void*, const void*>> readable;

inline Fiber& self() { return *fibers[current]; }
inline void yield() { swapcontext(&self().context, &scheduler); }
inline void wait(Barrier& barrier, int expected) {
  const unsigned generation = barrier.generation;
  if (++barrier.count == expected) {
    barrier.count = 0, ++barrier.generation, moved = true;
    return;
  }
  while (barrier.generation == generation) yield();
}
inline int flat() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
inline int lanes() { return std::min<int>(32, running - flat() / 32 * 32); }
inline Block& block() { return *blocks[self().slot]; }
// The thread among those of the cluster; warps of different blocks do not meet.
inline int mine() { return self().slot * 1024 + flat(); }

// Shared memory that a kernel declares: every thread of a block gets the same, and every block of a cluster the same place.
template <typename T>
T* shared(std::size_t count) {
  const std::size_t place = (self().declared + 127) / 128 * 128;
  self().declared = place + count * sizeof(T);
  if (self().declared > Block::STATIC) std::abort();
  return reinterpret_cast<T*>(block().shared + place);
}
// What a launch asks for.
template <typename T>
T* dynamic() {
  return reinterpret_cast<T*>(block().shared + Block::STATIC);
}

static void enter() {
  body(body_data);
  self().done = true, moved = true;
  if (!self().uncommitted.empty() || !self().products.empty() || !self().product_groups.empty()) ++problems;
  // What a block has in shared memory is gone when it is.
  if (--block().running == 0) std::memset(block().shared, 0xA5, Block::SHARED);
  yield();
}

// The blocks of one cluster, from this one along x or z; false where threads wait for each other forever.
inline bool run_cluster(uint3 first, dim3 shape) {
  const int size = shape.x * shape.z;
  running = blockDim.x * blockDim.y * blockDim.z, clustered = size;
  counters.clear();
  const int count = running * size;
  cluster_barrier = Barrier();
  while (static_cast<int>(blocks.size()) < size) {
    blocks.emplace_back(new Block());
    Block& made = *blocks.back();
    made.memory.reset(new char[Block::SHARED + Block::ALIGNED]);
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(made.memory.get());
    made.shared = made.memory.get() + (Block::ALIGNED - begin % Block::ALIGNED);
    std::memset(made.shared, 0xA5, Block::SHARED);
  }
  for (int slot = 0; slot < size; ++slot) {
    Block& next = *blocks[slot];
    next.index = make_uint3(first.x + slot % shape.x, first.y, first.z + slot / shape.x);
    next.all = Barrier(), next.running = running;
    for (auto& barrier : next.slices) barrier = Barrier();
    for (auto& barrier : next.warps) barrier = Barrier();
    for (auto& barrier : next.some) barrier = Barrier();
  }
  while (static_cast<int>(fibers.size()) < count) {
    fibers.emplace_back(new Fiber());
    fibers.back()->stack.reset(new char[STACK]);
  }
  for (int i = 0; i < count; ++i) {
    Fiber& fiber = *fibers[i];
    const unsigned x = blockDim.x, y = blockDim.y, n = i % running;
    fiber.index = make_uint3(n % x, n / x % y, n / x / y);
    fiber.slot = i / running, fiber.declared = 0;
    fiber.done = fiber.unpublished = false, fiber.uncommitted.clear(), fiber.groups.clear();
    fiber.products.clear(), fiber.product_groups.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  // A warp runs as far as it comes by itself before its neighbours have a turn: the first first, or the last.
  const int warps = (running + 31) / 32;
  for (int left = count; left > 0;) {
    bool any = false;
    left = 0;
    for (int turn = 0; turn < size * warps; ++turn) {
      const int place = backwards ? size * warps - 1 - turn : turn;
      const int first = place / warps * running, warp = place % warps * 32;
      int alive = 0;
      do {
        alive = 0, moved = false;
        for (current = first + warp; current < first + std::min(warp + 32, running); ++current) {
          if (self().done) continue;
          threadIdx = self().index, blockIdx = block().index;
          swapcontext(&scheduler, &self().context);
          alive += !self().done;
        }
        any |= moved;
      } while (moved && alive);
      left += alive;
    }
    if (!any && left) return false;
  }
  for (const auto& counter : counters) problems += !counter.second.copies.empty() || counter.second.bytes;
  return true;
}

// All blocks of a grid, `cluster` of them along x and z at a time; threads that never wait for each other need no fibers.
inline int run_grid(dim3 grid, dim3 block, dim3 cluster, void (*function)(void*), void* data, bool alone) {
  gridDim = grid, blockDim = block, body = function, body_data = data, problems = followed = 0;
  if (grid.x % cluster.x || grid.z % cluster.z) return -1;
  for (unsigned z = 0; z < grid.z; z += cluster.z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; x += cluster.x) {
        blockIdx = make_uint3(x, y, z);
        if (!alone) {
          if (!run_cluster(blockIdx, cluster)) return -1;
          continue;
        }
        for (unsigned k = 0; k < block.z; ++k)
          for (unsigned j = 0; j < block.y; ++j)
            for (unsigned i = 0; i < block.x; ++i) threadIdx = make_uint3(i, j, k), function(data);
      }
  return problems;
}

// One cluster of rows of threads, each of which calls `function`; how many things were wrong.
template <typename Function>
int run_threads(int threads, Function function, int cluster = 1) {
  auto call = [](void* data) { (*static_cast<Function*>(data))(); };
  backwards = !backwards;
  return run_grid(dim3(1, 1, cluster), dim3(threads), dim3(1, 1, cluster), call, &function, false);
}

template <typename... A>
struct Kernel {
  void (*function)(A...);
  void** arguments;
  template <std::size_t... I>
  void call(std::index_sequence<I...>) {
    function(*static_cast<std::decay_t<A>*>(arguments[I])...);
  }
  static void run(void* kernel) { static_cast<Kernel*>(kernel)->call(std::index_sequence_for<A...>()); }
};
template <typename... A>
int launch(void (*function)(A...), dim3 grid, dim3 block, dim3 cluster, bool early, void** arguments, bool alone) {
  Kernel<A...> kernel{function, arguments};
  static std::map<void (*)(A...), int> launches;
  backwards = launches[function]++ % 2;  // every other time with the last warp first
  const int wrong = run_grid(grid, block, cluster, &Kernel<A...>::run, &kernel, alone);
  // Launched before the kernel before has ended, all threads have to wait for that.
  const long threads = 1L * grid.x * grid.y * grid.z * block.x * block.y * block.z;
  return wrong ? wrong : early && followed != threads;
}
// The arguments in memory of their own, which a graph keeps.
template <typename... A>
void** keep(void (*)(A...), void** arguments) {
  void** kept = new void*[sizeof...(A) + 1];
  const std::size_t sizes[] = {sizeof(std::decay_t<A>)..., 0};
  for (std::size_t i = 0; i < sizeof...(A); ++i) kept[i] = std::memcpy(std::malloc(sizes[i]), arguments[i], sizes[i]);
  return kept;
}

static const int THREADS = 1024 * LARGEST_CLUSTER;
static unsigned registers_a[THREADS][4], registers_b[THREADS][2];
static const std::uint16_t* addresses[THREADS];
inline void meet() { wait(block().warps[flat() / 32], lanes()); }
// What lane `from` gives, where it is one of the mask's lanes, which wait for each other; of another one, no such value.
template <typename T>
T shuffle(T value, int from, unsigned mask = 0xffffffffu) {
  static T given[THREADS];
  const int me = mine(), base = me / 32 * 32;
  const unsigned there = mask & 0xffffffffu >> (32 - lanes());
  if (!(there >> me % 32 & 1)) std::abort();
  Barrier& barrier = block().some[base % 1024 + __builtin_ctz(there)];
  given[me] = value;
  wait(barrier, __builtin_popcount(there));
  T found = value;
  if (from >= 0 && from < 32) {
    if (there >> from & 1) found = given[base + from];
    else std::memset(&found, 0xFF, sizeof(T));
  }
  wait(barrier, __builtin_popcount(there));
  return found;
}
inline float float_of(unsigned bits) {
  float value;
  return std::memcpy(&value, &bits, 4), value;
}
inline float half_value(unsigned bits) {
  static const std::vector<float> table = [] {
    std::vector<float> made(65536);
    for (int i = 0; i < 65536; ++i) made[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(i)));
    return made;
  }();
  return table[bits & 65535];
}
// Words as tensor cores see them: TERMS numbers, of a left and of a right operand.
struct Bytes {
  static const int TERMS = 4;
  static int left(unsigned word, int i) { return word >> 8 * i & 255; }
  static int right(unsigned word, int i) { return static_cast<std::int8_t>(word >> 8 * i & 255); }
};
struct Halves {
  static const int TERMS = 2;
  static float left(unsigned word, int i) { return half_value(word >> 16 * i); }
  static float right(unsigned word, int i) { return left(word, i); }
};
struct Bfloats {
  static const int TERMS = 2;
  static float left(unsigned word, int i) { return float_of(word >> 16 * i << 16); }
  static float right(unsigned word, int i) { return left(word, i); }
};
struct Tf32 {
  static const int TERMS = 1;
  static float left(unsigned word, int) { return float_of(word & ~0x1fffu); }  // the low bits are ignored
  static float right(unsigned word, int i) { return left(word, i); }
};
// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k32" and "... mma.m16n8k8": of a,
// register r of lane l holds row l / 4 (+ 8 where r is odd) and word l % 4 (+ 4 where r >= 2); of b, column l / 4 and
// word l % 4 (+ 4 where r = 1); of c, row l / 4 (+ 8 where r >= 2) and column 2 (l % 4) + r % 2.
template <typename Words, typename Sum>
void multiply(Sum* c, const unsigned* a, const unsigned* b) {
  const int me = mine(), lane = me % 32, base = me - lane;
  std::memcpy(registers_a[me], a, 16);
  std::memcpy(registers_b[me], b, 8);
  meet();
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
    for (int word = 0; word < 8; ++word) {
      const unsigned x = registers_a[base + row % 8 * 4 + word % 4][row / 8 + word / 4 * 2];
      const unsigned y = registers_b[base + column * 4 + word % 4][word / 4];
      for (int i = 0; i < Words::TERMS; ++i) c[r] += Words::left(x, i) * Words::right(y, i);
    }
  }
  meet();
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block().all, emulator::running); }
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int = 32) {
  return emulator::shuffle(value, lane & 31, mask);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int delta, int = 32) {
  return emulator::shuffle(value, emulator::flat() % 32 - delta, mask);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int delta, int = 32) {
  return emulator::shuffle(value, emulator::flat() % 32 + delta, mask);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bit, int = 32) {
  return emulator::shuffle(value, emulator::flat() % 32 ^ bit, mask);
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float max(float a, float b) { return std::fmax(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
template <typename A, typename B, typename = std::enable_if_t<std::is_integral_v<A> && std::is_integral_v<B>>>
inline std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
template <typename A, typename B, typename = std::enable_if_t<std::is_integral_v<A> && std::is_integral_v<B>>>
inline std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
inline float __int_as_float(int bits) {
  float value;
  return std::memcpy(&value, &bits, 4), value;
}
inline int __float_as_int(float value) {
  int bits;
  return std::memcpy(&bits, &value, 4), bits;
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
template <typename T>
T atomicAdd(T* place, T value) {
  T before = *place;
  *place = before + value;
  return before;
}
template <typename T>
T atomicMin(T* place, T value) {
  T before = *place;
  *place = std::min(before, value);
  return before;
}

OPTKIT_DEVICE int optkit_thread() { return threadIdx.x % 128; }
OPTKIT_DEVICE int optkit_slice() { return threadIdx.x / 128; }
OPTKIT_DEVICE void optkit_sync() { __syncthreads(); }
OPTKIT_DEVICE void optkit_sync_slice() { emulator::wait(emulator::block().slices[optkit_slice()], 128); }
template <int bytes>
OPTKIT_DEVICE void optkit_copy(unsigned* to, const unsigned* from, bool inside = true) {
  const char *begin = reinterpret_cast<const char*>(from), *end = begin + bytes;
  bool allowed = emulator::readable.empty() || !inside;
  for (const auto& range : emulator::readable) allowed |= begin >= range.first && end <= range.second;
  if (!allowed || reinterpret_cast<std::uintptr_t>(to) % bytes || reinterpret_cast<std::uintptr_t>(from) % bytes) {
    ++emulator::problems;
    return;
  }
  emulator::self().uncommitted.push_back({to, inside ? from : nullptr, bytes});
}
template <int bytes, unsigned FILL>
OPTKIT_DEVICE void optkit_fill(unsigned* to, const unsigned* from, bool inside) {
  static const unsigned words[4] = {FILL, FILL, FILL, FILL};
  if (FILL == 0 || inside) {
    optkit_copy<bytes>(to, from, inside);
  } else {
    emulator::self().uncommitted.push_back({to, words, bytes});
  }
}
OPTKIT_DEVICE void optkit_commit() {
  emulator::self().groups.push_back(emulator::self().uncommitted);
  emulator::self().uncommitted.clear();
}
template <int pending>
OPTKIT_DEVICE void optkit_wait() {
  auto& groups = emulator::self().groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (const emulator::Copy& copy : groups.front()) {
      if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
      if (!copy.from) std::memset(copy.to, 0, copy.bytes);
      emulator::self().unpublished = true;
    }
    groups.pop_front();
  }
}
OPTKIT_DEVICE void optkit_mma_bytes(int* c, const unsigned* a, const unsigned* b) {
  emulator::multiply<emulator::Bytes>(c, a, b);
}
OPTKIT_DEVICE void optkit_mma_halves(float* c, const unsigned* a, const unsigned* b) {
  emulator::multiply<emulator::Halves>(c, a, b);
}
OPTKIT_DEVICE void optkit_mma_bfloats(float* c, const unsigned* a, const unsigned* b) {
  emulator::multiply<emulator::Bfloats>(c, a, b);
}
OPTKIT_DEVICE void optkit_mma_tf32(float* c, const unsigned* a, const unsigned* b) {
  emulator::multiply<emulator::Tf32>(c, a, b);
}
OPTKIT_DEVICE unsigned optkit_tf32(unsigned word) { return (word + 0x1000u) & ~0x1fffu; }  // to nearest, ties away
// PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions". What is asked for is done when it is
// waited for, as late as can be, and reads what lies in shared memory then.
OPTKIT_DEVICE int optkit_index() { return threadIdx.x; }
OPTKIT_DEVICE unsigned optkit_address(const unsigned* place) {
  emulator::block().near = reinterpret_cast<const char*>(place);
  return reinterpret_cast<std::uintptr_t>(place) & 0x3ffff;
}
namespace emulator {
// What lies at an address of shared memory.
inline const unsigned* shared_place(unsigned address) {
  const std::uintptr_t near = reinterpret_cast<std::uintptr_t>(block().near), window = 0x40000;
  std::uintptr_t place = near / window * window + address;
  if (place > near + window / 2) place -= window;
  if (place + window / 2 < near) place += window;
  return reinterpret_cast<const unsigned*>(place);
}
}  // namespace emulator
OPTKIT_DEVICE unsigned optkit_read(unsigned address) { return *emulator::shared_place(address); }
#ifndef OPTKIT_WITHOUT_WARPGROUPS
OPTKIT_DEVICE void optkit_publish() { emulator::self().unpublished = false; }
OPTKIT_DEVICE void optkit_begin() {
  for (const auto& fiber : emulator::fibers) emulator::problems += !fiber->done && fiber->unpublished;
}
OPTKIT_DEVICE void optkit_end() {
  emulator::self().product_groups.push_back(emulator::self().products);
  emulator::self().products.clear();
}
template <int pending, typename Sum, int COUNT>
OPTKIT_DEVICE void optkit_finish(Sum (&)[COUNT]) {
  auto& groups = emulator::self().product_groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (const auto& product : groups.front()) product();
    groups.pop_front();
  }
}
namespace emulator {
// Chunk `h` of row or column `i` of a matrix without swizzling, by its descriptor ("Matrix Descriptor Format").
inline const unsigned* chunk(unsigned long long matrix, int h, int i) {
  if (matrix >> 46 || (matrix >> 14 & 3) || (matrix >> 30 & 3)) ++problems;
  const unsigned apart = h * ((matrix >> 16 & 0x3fff) << 4) + i / 8 * ((matrix >> 32 & 0x3fff) << 4) + i % 8 * 16;
  return shared_place((matrix & 0x3fff) << 4) + apart / 4;
}
template <typename Words, typename Sum, int COUNT>
void multiply_matrices(Sum (&c)[COUNT], unsigned long long a, unsigned long long b) {
  const int lane = flat() % 32, warp = flat() % 128 / 32;
  Sum* sums = c;
  self().products.push_back([=] {
    for (int r = 0; r < COUNT; ++r) {
      const int row = warp * 16 + lane / 4 + r / 2 % 2 * 8, column = r / 4 * 8 + lane % 4 * 2 + r % 2;
      for (int h = 0; h < 2; ++h) {
        const unsigned *x = chunk(a, h, row), *y = chunk(b, h, column);
        for (int w = 0; w < 4; ++w)
          for (int i = 0; i < Words::TERMS; ++i) sums[r] += Words::left(x[w], i) * Words::right(y[w], i);
      }
    }
  });
}
}  // namespace emulator
template <int COUNT>
void optkit_wgmma_bytes(int (&c)[COUNT], unsigned long long a, unsigned long long b) {
  emulator::multiply_matrices<emulator::Bytes>(c, a, b);
}
template <int COUNT>
void optkit_wgmma_halves(float (&c)[COUNT], unsigned long long a, unsigned long long b) {
  emulator::multiply_matrices<emulator::Halves>(c, a, b);
}
template <int COUNT>
void optkit_wgmma_bfloats(float (&c)[COUNT], unsigned long long a, unsigned long long b) {
  emulator::multiply_matrices<emulator::Bfloats>(c, a, b);
}
#endif
// PTX ISA, "ldmatrix": register i of lane l holds of matrix i elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, here
// of the transposed matrix; lane l gives the address of row l % 8 of matrix l / 8.
OPTKIT_DEVICE void optkit_transposed(unsigned* words, const unsigned* from) {
  const int mine = emulator::mine(), lane = mine % 32, base = mine - lane;
  if (reinterpret_cast<std::uintptr_t>(from) % 16) ++emulator::problems;
  emulator::addresses[mine] = reinterpret_cast<const std::uint16_t*>(from);
  emulator::meet();
  for (int i = 0; i < 4; ++i) {
    const std::uint16_t* low = emulator::addresses[base + 8 * i + lane % 4 * 2];
    const std::uint16_t* high = emulator::addresses[base + 8 * i + lane % 4 * 2 + 1];
    words[i] = low[lane / 4] | static_cast<unsigned>(high[lane / 4]) << 16;
  }
  emulator::meet();
}
OPTKIT_DEVICE unsigned optkit_halves(float low, float high) {
  return __half_as_ushort(__float2half_rn(low)) | static_cast<unsigned>(__half_as_ushort(__float2half_rn(high))) << 16;
}
OPTKIT_DEVICE unsigned optkit_bfloats(float low, float high) {
  const auto bits = [](float x) -> unsigned { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); };
  return bits(low) | bits(high) << 16;
}
OPTKIT_DEVICE float optkit_exp2(float x) { return std::exp2(x); }
OPTKIT_DEVICE float optkit_other_lane(float x, int bit) { return emulator::shuffle(x, emulator::flat() % 32 ^ bit); }
OPTKIT_DEVICE void optkit_follow() { ++emulator::followed; }
OPTKIT_DEVICE void optkit_sync_cluster() {
  emulator::wait(emulator::cluster_barrier, emulator::running * emulator::clustered);
}
namespace emulator {
// The same place in shared memory of another block of the cluster.
template <typename T>
T* peer(T* place, int slot) {
  const char* mine = block().shared;
  return reinterpret_cast<T*>(blocks[slot]->shared + (reinterpret_cast<const char*>(place) - mine));
}
}  // namespace emulator
template <typename T>
void optkit_read_peer(T* four, const T* place, int block) {
  if (reinterpret_cast<std::uintptr_t>(place) % 16) ++emulator::problems;
  std::memcpy(four, emulator::peer(place, block), 16);
}
namespace emulator {
inline Counter& counter(const void* place) {
  const auto found = counters.find(place);
  if (found == counters.end()) std::abort();
  return found->second;
}
inline void settle(Counter& counter) {
  if (counter.pending || counter.bytes) return;
  counter.pending = counter.count, ++counter.phase, moved = true;
}
inline void arrive(Counter& counter, int bytes) {
  if (--counter.pending < 0) std::abort();
  counter.bytes += bytes;
  settle(counter);
}
inline void deliver(Counter& counter) {
  const std::vector<Copy> copies = std::move(counter.copies);
  counter.copies.clear();
  for (const Copy& copy : copies) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    counter.bytes -= copy.bytes;
  }
  if (!copies.empty()) settle(counter);
}
}  // namespace emulator
OPTKIT_DEVICE void optkit_barrier(unsigned long long* barrier, int count) {
  if (reinterpret_cast<std::uintptr_t>(barrier) % 8) ++emulator::problems;
  emulator::counters[barrier] = {count, count};
}
OPTKIT_DEVICE void optkit_made() {}
OPTKIT_DEVICE void optkit_expect(unsigned long long* barrier, int bytes) {
  emulator::arrive(emulator::counter(barrier), bytes);
}
OPTKIT_DEVICE void optkit_arrive(unsigned long long* barrier, int block) {
  emulator::arrive(emulator::counter(emulator::peer(barrier, block)), 0);
}
// Every other time as late as can be, else at once: so neither may be what was not waited for.
template <int CAST>
OPTKIT_DEVICE void optkit_bulk(unsigned* to, const unsigned* from, int bytes, unsigned long long* barrier) {
  const char* begin = reinterpret_cast<const char*>(from);
  bool allowed = emulator::readable.empty();
  for (const auto& range : emulator::readable) allowed |= begin >= range.first && begin + bytes <= range.second;
  const std::uintptr_t places = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) | bytes;
  if (!allowed || places % 16 || bytes <= 0) {
    ++emulator::problems;
    return;
  }
  for (int slot = 0; slot < CAST; ++slot) {
    const int block = CAST > 1 ? slot : emulator::self().slot;
    emulator::Counter& counter = emulator::counter(emulator::peer(barrier, block));
    counter.copies.push_back({emulator::peer(to, block), from, bytes});
    if (emulator::backwards) emulator::deliver(counter);
  }
}
OPTKIT_DEVICE void optkit_await(unsigned long long* barrier, int parity) {
  emulator::Counter& counter = emulator::counter(barrier);
  while (static_cast<int>(counter.phase & 1) == parity) {
    emulator::deliver(counter);
    if (static_cast<int>(counter.phase & 1) == parity) emulator::yield();
  }
}
OPTKIT_DEVICE void optkit_write_peer(float* place, int block, float value) {
  std::memcpy(emulator::peer(place, block), &value, 4);
}
OPTKIT_DEVICE int optkit_dp4a_u8s8(unsigned a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += emulator::Bytes::left(a, i) * emulator::Bytes::right(b, i);
  return c;
}
