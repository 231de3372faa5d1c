/* AMX's tile registers in plain C, for processors without them: the Intel SDM's pseudo code, denormals as zero.
   Every operand is checked as the processor does; what it refuses ends the process. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint8_t palette, start, rest[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape_t;
static __thread shape_t shape;
static __thread uint8_t tile[8][16][64];

static void check(int right) { if (!right) abort(); }
static void known(int t) { check(t >= 0 && t < 8 && shape.palette == 1 && shape.rows[t] && shape.bytes[t]); }

void optkit_emulated_ldtilecfg(const shape_t *given) {
    shape = *given;
    check(shape.palette == 1 && !shape.start);
    for (int t = 0; t < 8; t++) check(shape.rows[t] <= 16 && shape.bytes[t] <= 64);
    memset(tile, 0, sizeof tile);
}

void optkit_emulated_tilerelease(void) { memset(&shape, 0, sizeof shape); }

void optkit_emulated_tilezero(int8_t t) { known(t); memset(tile[t], 0, sizeof tile[t]); }

void optkit_emulated_tileloadd64(int8_t t, const char *from, int64_t stride) {
    known(t);
    memset(tile[t], 0, sizeof tile[t]);
    for (int r = 0; r < shape.rows[t]; r++) memcpy(tile[t][r], from + r * stride, shape.bytes[t]);
}

void optkit_emulated_tilestored64(int8_t t, char *to, int64_t stride) {
    known(t);
    for (int r = 0; r < shape.rows[t]; r++) memcpy(to + r * stride, tile[t][r], shape.bytes[t]);
}

static void fits(int c, int a, int b) {
    known(a); known(b); known(c);
    check(shape.rows[c] == shape.rows[a] && shape.bytes[c] == shape.bytes[b] && shape.rows[b] == shape.bytes[a] / 4);
}

void optkit_emulated_tdpbusd(int8_t c, int8_t a, int8_t b) {
    fits(c, a, b);
    for (int m = 0; m < shape.rows[c]; m++)
        for (int n = 0; n < shape.bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, tile[c][m] + 4 * n, 4);
            for (int k = 0; k < shape.rows[b]; k++)
                for (int i = 0; i < 4; i++) sum += (int)tile[a][m][4 * k + i] * (int8_t)tile[b][k][4 * n + i];
            memcpy(tile[c][m] + 4 * n, &sum, 4);
        }
}

static float real(const uint8_t *from) {
    uint32_t bits = (uint32_t)(from[0] | from[1] << 8) << 16;
    float value;
    if (!(bits & 0x7f800000)) bits = 0;
    memcpy(&value, &bits, 4);
    return value;
}

void optkit_emulated_tdpbf16ps(int8_t c, int8_t a, int8_t b) {
    fits(c, a, b);
    for (int m = 0; m < shape.rows[c]; m++)
        for (int n = 0; n < shape.bytes[c] / 4; n++) {
            float sum;
            memcpy(&sum, tile[c][m] + 4 * n, 4);
            for (int k = 0; k < shape.rows[b]; k++)
                for (int i = 0; i < 2; i++) sum += real(tile[a][m] + 4 * k + 2 * i) * real(tile[b][k] + 4 * n + 2 * i);
            memcpy(tile[c][m] + 4 * n, &sum, 4);
        }
}
