/* Loops over vector registers alone: CHAINS independent chains of one instruction, nothing loaded inside.
   Each returns the operations it did; a multiply-add counts as two. */
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX2__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
/* More than any latency times the ports; vdpbf16ps has the longest. */
enum { CHAINS = 12, LONG_CHAINS = 16 };
typedef float vf __attribute__((vector_size(WIDTH)));
typedef int32_t vi __attribute__((vector_size(WIDTH)));

/* An empty statement that reads and writes a register: the compiler can neither drop nor hoist what feeds it. */
#if defined(__x86_64__)
#define KEEP(x) __asm__ volatile("" : "+v"(x))
#else
#define KEEP(x) __asm__ volatile("" : "+w"(x))
#endif

#define LOOP(count, type, start, update)                                                                                      \
    type c[count];                                                                                                    \
    for (int i = 0; i < (count); i++) c[i] = start;                                                                     \
    for (long n = 0; n < steps; n++) {                                                                                 \
        _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++) { update; }                                          \
    }                                                                                                                  \
    for (int i = 0; i < (count); i++) KEEP(c[i])

double probe_float32(long steps) {
    vf a = (vf){} + 0.5f, b = (vf){} + 1.0f;
    KEEP(a); KEEP(b);
    LOOP(CHAINS, vf, b, c[i] = c[i] * a + b);
    return 2.0 * steps * CHAINS * (WIDTH / 4);
}

#if defined(__AMX_TILE__)
/* Linux has a process ask for tile registers, a thread says what shape they have; four of sums hide their latency. */
static int tiles(void) {
    struct { uint8_t palette, start, rest[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = {.palette = 1};
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0;
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* GCC says that the instruction reads eight bytes of it. */
    _tile_loadconfig(&shape);
    return 1;
}

#define TILE_LOOP(product)                                                                                             \
    for (long n = 0; n < steps / 16; n++) { product(0, 4, 6); product(1, 4, 7); product(2, 5, 6); product(3, 5, 7); }    \
    _tile_release()
#endif

double probe_int8(long steps) {
#if defined(__AMX_INT8__)
    if (tiles()) {
        TILE_LOOP(_tile_dpbusd);
        return 2.0 * (steps / 16) * 4 * 16 * 16 * 64;
    }
#endif
    vi a = (vi){} + 0x01010101, b = a;
    KEEP(a); KEEP(b);
#if defined(__AVX512VNNI__)
    LOOP(CHAINS, __m512i, (__m512i)a, c[i] = _mm512_dpbusd_epi32(c[i], (__m512i)a, (__m512i)b));
    return 2.0 * steps * CHAINS * WIDTH;
#elif defined(__AVXVNNI__) && defined(__AVX2__)
    LOOP(CHAINS, __m256i, (__m256i)a, c[i] = _mm256_dpbusd_avx_epi32(c[i], (__m256i)a, (__m256i)b));
    return 2.0 * steps * CHAINS * WIDTH;
#elif defined(__AVX2__)
    LOOP(CHAINS, __m256i, (__m256i)a, __m256i p = _mm256_madd_epi16((__m256i)a, (__m256i)b); KEEP(p);
         c[i] = _mm256_add_epi32(c[i], p));
    return 2.0 * steps * CHAINS * (WIDTH / 2);
#elif defined(__ARM_FEATURE_DOTPROD)
    LOOP(CHAINS, int32x4_t, (int32x4_t)a, c[i] = vdotq_s32(c[i], (int8x16_t)a, (int8x16_t)b));
    return 2.0 * steps * CHAINS * WIDTH;
#else
    return 0.0;
#endif
}

double probe_bfloat16(long steps) {
#if defined(__AMX_BF16__)
    if (tiles()) {
        TILE_LOOP(_tile_dpbf16ps);
        return 2.0 * (steps / 16) * 4 * 16 * 16 * 32;
    }
#endif
#if defined(__AVX512BF16__)
    vi a = (vi){} + 0x3f003f00, b = a;
    KEEP(a); KEEP(b);
    LOOP(LONG_CHAINS, __m512, (__m512)((vf){}), c[i] = _mm512_dpbf16_ps(c[i], (__m512bh)a, (__m512bh)b));
    return 2.0 * steps * LONG_CHAINS * (WIDTH / 2);
#else
    return 0.0;
#endif
}

/* Bytes of `bytes` at `data` read once, with `CHAINS` sums. */
double probe_bandwidth(const float *data, long bytes) {
    const vf *at = (const vf *)data;
    vf c[CHAINS] = {};
    long count = bytes / WIDTH / CHAINS * CHAINS;
    for (long n = 0; n < count; n += CHAINS) {
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) c[i] += at[n + i];
    }
    for (int i = 0; i < CHAINS; i++) KEEP(c[i]);
    return (double)count * WIDTH;
}
