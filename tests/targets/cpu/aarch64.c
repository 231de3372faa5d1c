/* Runs the kernels of a model one after the other, with neither TVM nor a C library: program.h is their order, the
 * tensors that they read come from the standard input, the outputs go to the standard output.
 *
 * Every tensor is filled with a pattern before it is written and has the pattern on both sides, so that a kernel that
 * leaves elements out or writes past its end is noticed. Parallel regions run as three tasks, the last one first.
 */
#include <stddef.h>
#include <stdint.h>

#define GUARD 256
#define PATTERN 0xA5
#define TASKS 3
#define ARGUMENTS 16

struct type { uint8_t code, bits; uint16_t lanes; };
/* DLTensor of dlpack.h and TVMFFIAny of tvm/ffi/c_api.h */
struct tensor {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  struct type dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct any { int32_t type_index; uint32_t padding; void *value; };
enum { DEVICE_CPU = 1, TYPE_DLTENSOR = 7 };

typedef int (*kernel)(void *self, const struct any *args, int32_t count, struct any *result);
struct slot { struct type dtype; int32_t ndim; int64_t shape[8]; int64_t bytes; int given; };
struct call { const char *name; kernel function; int32_t count; int32_t slots[ARGUMENTS]; };

#include "program.h" /* slots[], calls[], outputs[] and their lengths */

/* What a reshape makes is where its operand is. */
int __tvm_ffi_view(void *self, const struct any *args, int32_t count, struct any *result) {
  ((struct tensor *)args[1].value)->data = ((struct tensor *)args[0].value)->data;
  return 0;
}

struct environment { void *handle; int32_t tasks; };
typedef int (*task)(int id, struct environment *environment, void *closure);

static int launch(task function, void *closure, int tasks) {
  struct environment environment = {NULL, tasks > 0 ? tasks : TASKS};
  for (int i = environment.tasks - 1; i >= 0; i--) {
    int status = function(i, &environment, closure);
    if (status) return status;
  }
  return 0;
}

/* Linux by its system calls. */
enum { READ = 63, WRITE = 64, EXIT = 93, INPUT = 0, OUTPUT = 1, ERRORS = 2 };

static int64_t call_system(int64_t number, int64_t a, const void *b, int64_t c) {
  register int64_t x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = (int64_t)b,
                   x2 __asm__("x2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}

static void leave(int status) {
  for (;;) call_system(EXIT, status, NULL, 0);
}

static void move(int64_t number, int file, uint8_t *memory, int64_t bytes) {
  while (bytes > 0) {
    int64_t done = call_system(number, file, memory, bytes);
    if (done <= 0) leave(2);
    memory += done, bytes -= done;
  }
}

static void say(const char *text) {
  int64_t length = 0;
  while (text[length]) length++;
  call_system(WRITE, ERRORS, text, length);
}

/* What compilers make of copies; -fno-builtin keeps them from making these themselves into calls of them. */
void *memset(void *to, int value, size_t bytes) {
  for (uint8_t *at = to; bytes--; at++) *at = value;
  return to;
}

void *memcpy(void *to, const void *from, size_t bytes) {
  const uint8_t *source = from;
  for (uint8_t *at = to; bytes--; at++) *at = *source++;
  return to;
}

/* Memory is never given back. */
static uint8_t arena[64 << 20] __attribute__((aligned(GUARD)));
static uint64_t used;

static void *room(uint64_t bytes) {
  uint64_t size = (bytes + 3 * GUARD - 1) / GUARD * GUARD;
  uint8_t *all = arena + used;
  used += size;
  if (used > sizeof arena) say("out of memory\n"), leave(3);
  for (uint64_t i = 0; i < size; i++) all[i] = PATTERN;
  return all + GUARD;
}

static void *allocate(int device, int id, uint64_t bytes, int code, int bits) { return room(bytes); }

static int release(int device, int id, void *memory) { return 0; }

/* TVM's generated code calls its runtime by these. */
void *__TVMBackendParallelLaunch = (void *)launch;
void *__TVMBackendAllocWorkspace = (void *)allocate;
void *__TVMBackendFreeWorkspace = (void *)release;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  say(kind), say(": ");
  for (int32_t i = 0; i < count; i++) say(parts[i]);
  say("\n");
}

static int whole(const uint8_t *memory, int64_t bytes) {
  for (int64_t i = 1; i <= GUARD; i++)
    if (memory[-i] != PATTERN || memory[bytes + i - 1] != PATTERN) return 0;
  return 1;
}

__attribute__((used)) void run(void) {
  static struct tensor tensors[SLOTS];
  for (int i = 0; i < SLOTS; i++) {
    struct slot *s = &slots[i];
    void *memory = room(s->bytes);
    tensors[i] = (struct tensor){memory, DEVICE_CPU, 0, s->ndim, s->dtype, s->shape, NULL, 0};
    if (s->given) move(READ, INPUT, memory, s->bytes);
  }
  for (int i = 0; i < CALLS; i++) {
    struct any args[ARGUMENTS], result = {0, 0, NULL};
    for (int k = 0; k < calls[i].count; k++)
      args[k] = (struct any){TYPE_DLTENSOR, 0, &tensors[calls[i].slots[k]]};
    if (calls[i].function(NULL, args, calls[i].count, &result)) say(calls[i].name), say(" failed\n"), leave(4);
    for (int k = 0; k < calls[i].count; k++) {
      int at = calls[i].slots[k];
      if (!whole(tensors[at].data, slots[at].bytes)) say(calls[i].name), say(" wrote outside\n"), leave(5);
    }
  }
  for (int i = 0; i < OUTPUTS; i++) move(WRITE, OUTPUT, tensors[outputs[i]].data, slots[outputs[i]].bytes);
  leave(0);
}

__asm__(".globl _start\n_start: mov x29, #0\n mov x30, #0\n bl run\n");
