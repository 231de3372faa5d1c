// Matrix instructions of a warpgroup, four warps: 64 rows x 8 words x COLUMNS columns, both operands in shared memory
// (PTX ISA, "wgmma"). A thread's sums are those of mma side by side: row lane / 4 (+ 8) of its warp's sixteen. Without
// the instructions, in code for other GPUs, mma takes their place. With OPTKIT_HOST they come from elsewhere.

#if !defined(OPTKIT_HOST) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define OPTKIT_WITHOUT_WARPGROUPS
#endif

#ifndef OPTKIT_HOST
// The thread in its block, and where in shared memory something lies.
OPTKIT_DEVICE int optkit_index() { return threadIdx.x; }
OPTKIT_DEVICE unsigned optkit_address(const unsigned* place) {
  return static_cast<unsigned>(__cvta_generic_to_shared(place));
}
OPTKIT_DEVICE unsigned optkit_read(unsigned address) {
  unsigned word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}
#endif

#if !defined(OPTKIT_HOST) && !defined(OPTKIT_WITHOUT_WARPGROUPS)
// What this thread has copied is there for the instructions of every warpgroup behind the next barrier.
OPTKIT_DEVICE void optkit_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
OPTKIT_DEVICE void optkit_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
OPTKIT_DEVICE void optkit_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All but the last `pending` groups are done; empty instructions keep uses of the sums behind.
template <int pending, int COUNT>
OPTKIT_DEVICE void optkit_finish(float (&sums)[COUNT]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
template <int pending, int COUNT>
OPTKIT_DEVICE void optkit_finish(int (&sums)[COUNT]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+r"(sums[i])::"memory");
}

#define OPTKIT_8(c, s, i) \
  c(s[i]), c(s[i + 1]), c(s[i + 2]), c(s[i + 3]), c(s[i + 4]), c(s[i + 5]), c(s[i + 6]), c(s[i + 7])
#define OPTKIT_16(c, s, i) OPTKIT_8(c, s, i), OPTKIT_8(c, s, i + 8)
#define OPTKIT_32(c, s, i) OPTKIT_16(c, s, i), OPTKIT_16(c, s, i + 16)
#define OPTKIT_64(c, s, i) OPTKIT_32(c, s, i), OPTKIT_32(c, s, i + 32)
#define OPTKIT_128(c, s, i) OPTKIT_64(c, s, i), OPTKIT_64(c, s, i + 64)
#define OPTKIT_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define OPTKIT_NAMES_32 \
  OPTKIT_NAMES_16 \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define OPTKIT_NAMES_64 \
  OPTKIT_NAMES_32 \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define OPTKIT_NAMES_128 \
  OPTKIT_NAMES_64 \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define OPTKIT_WGMMA(name, type, constraint, count, shape, types, after, left, right, add)                             \
  OPTKIT_DEVICE void optkit_wgmma_##name(type(&c)[count], unsigned long long a, unsigned long long b) {               \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " add ", 0;\nwgmma.mma_async.sync.aligned." shape "." types      \
                 " {" OPTKIT_NAMES_##count "}, " left ", " right ", add" after ";\n}\n"                                \
                 : OPTKIT_##count(constraint, c, 0)                                                                   \
                 : "l"(a), "l"(b), "r"(1));                                                                           \
  }
#define OPTKIT_WGMMAS(name, type, constraint, words, types, after)                                                     \
  OPTKIT_WGMMA(name, type, constraint, 16, "m64n32k" words, types, after, "%16", "%17", "%18")                        \
  OPTKIT_WGMMA(name, type, constraint, 32, "m64n64k" words, types, after, "%32", "%33", "%34")                        \
  OPTKIT_WGMMA(name, type, constraint, 64, "m64n128k" words, types, after, "%64", "%65", "%66")                       \
  OPTKIT_WGMMA(name, type, constraint, 128, "m64n256k" words, types, after, "%128", "%129", "%130")
OPTKIT_WGMMAS(bytes, int, "+r", "32", "s32.u8.s8", "")
OPTKIT_WGMMAS(halves, float, "+f", "16", "f32.f16.f16", ", 1, 1, 0, 0")
OPTKIT_WGMMAS(bfloats, float, "+f", "16", "f32.bf16.bf16", ", 1, 1, 0, 0")
#undef OPTKIT_WGMMAS
#undef OPTKIT_WGMMA
#undef OPTKIT_NAMES_128
#undef OPTKIT_NAMES_64
#undef OPTKIT_NAMES_32
#undef OPTKIT_NAMES_16
#undef OPTKIT_128
#undef OPTKIT_64
#undef OPTKIT_32
#undef OPTKIT_16
#undef OPTKIT_8

#endif

#ifdef OPTKIT_WITHOUT_WARPGROUPS
OPTKIT_DEVICE void optkit_publish() {}
OPTKIT_DEVICE void optkit_begin() {}
OPTKIT_DEVICE void optkit_end() {}
template <int pending, typename Sum, int COUNT>
OPTKIT_DEVICE void optkit_finish(Sum (&)[COUNT]) {}
// Words `quad` of the two chunks that a descriptor begins with, of row or column `i`.
OPTKIT_DEVICE void optkit_words(unsigned* words, int step, unsigned long long matrix, int i, int quad) {
  const unsigned start = (matrix & 0x3fff) << 4, along = (matrix >> 16 & 0x3fff) << 4;
  const unsigned place = start + i / 8 * ((matrix >> 32 & 0x3fff) << 4) + i % 8 * 16 + quad * 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) words[h * step] = optkit_read(place + h * along);
}
#define OPTKIT_WGMMA(name, type)                                                                                       \
  template <int COUNT>                                                                                                 \
  OPTKIT_DEVICE void optkit_wgmma_##name(type(&c)[COUNT], unsigned long long left, unsigned long long right) {         \
    const int lane = optkit_thread() % 32, row = optkit_thread() / 32 * 16 + lane / 4;                                 \
    unsigned a[4], b[2];                                                                                               \
    optkit_words(a, 2, left, row, lane % 4);                                                                           \
    optkit_words(a + 1, 2, left, row + 8, lane % 4);                                                                   \
    _Pragma("unroll") for (int j = 0; j < COUNT / 4; ++j) {                                                            \
      optkit_words(b, 1, right, j * 8 + lane / 4, lane % 4);                                                           \
      optkit_mma_##name(c + 4 * j, a, b);                                                                              \
    }                                                                                                                  \
  }
OPTKIT_WGMMA(bytes, int)
OPTKIT_WGMMA(halves, float)
OPTKIT_WGMMA(bfloats, float)
#undef OPTKIT_WGMMA
#endif
