// What the CUDA runtime and driver are asked for by TVM, on a CPU: memory is the host's, graphs keep their launches, and
// what is queued on a stream is done when somebody waits for it. Streams know of each other what events tell them; those
// that are not made non-blocking also wait for the default stream, as it does for them. After a failure every call
// fails. A module is a shared library in the clothes of a fat binary (`emulated_nvcc.py`).
//
// EMULATED_MEMORY: bytes that there are. EMULATED_LOCKED: bytes of the host that may be page-locked.
// EMULATED_FAILURE: "launch" lets every launch fail, "after:N" those after N.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {
struct Function {
  int (*run)(dim3, dim3, dim3, bool, void**);
  void** (*keep)(void**);
};
struct Launch {
  Function function;
  dim3 grid, block, cluster;
  bool early;
  void** arguments;
};
struct Graph {
  std::vector<Launch> launches;
};
typedef std::map<const char*, size_t> Ranges;
Ranges sizes, locked_sizes;
size_t used, locked;
cudaStream_t capturing;
Graph* captured;
long launched, early, replayed, copied, pageable;
std::map<cudaStream_t, long> copied_on;
cudaError_t last = cudaSuccess, lost = cudaSuccess;
typedef std::function<cudaError_t()> Step;
struct Stream {
  bool blocking;
  long begun = 0, queued = 0;
  std::deque<Step> steps;
};
std::map<cudaStream_t, Stream> streams;
struct Event {
  double seconds;
  cudaStream_t stream;
  long place;
};

size_t limit(const char* name) {
  const char* text = getenv(name);
  return text ? strtoull(text, nullptr, 10) : size_t(8) << 30;
}
size_t memory() { return limit("EMULATED_MEMORY"); }
bool within(const Ranges& ranges, const void* place) {
  const char* address = static_cast<const char*>(place);
  auto found = ranges.upper_bound(address);
  return found != ranges.begin() && address < (--found)->first + found->second;
}
bool broken() {
  const char* text = getenv("EMULATED_FAILURE");
  if (!text) return false;
  return !strncmp(text, "after:", 6) ? launched >= atol(text + 6) : true;
}
cudaError_t fail(cudaError_t error) { return last = error; }
cudaError_t run(const Launch& launch) {
  if (broken()) return cudaErrorLaunchFailure;
  ++launched, early += launch.early;
  const int wrong = launch.function.run(launch.grid, launch.block, launch.cluster, launch.early, launch.arguments);
  return wrong ? cudaErrorIllegalAddress : cudaSuccess;
}
// Do what was queued on a stream, up to a place in it; an error stays, as it does on a GPU.
cudaError_t finish(cudaStream_t stream, long place = -1) {
  Stream& queue = streams[stream];
  if (place < 0) place = queue.queued;
  while (queue.begun < place) {
    const Step step = queue.steps.front();
    queue.steps.pop_front(), ++queue.begun;
    if (lost == cudaSuccess) lost = step();
  }
  return lost == cudaSuccess ? lost : fail(lost);
}
void follow(cudaStream_t stream, cudaStream_t other) {
  const long place = streams[other].queued;
  if (streams[other].begun == place) return;
  ++streams[stream].queued;
  streams[stream].steps.push_back([=] { return finish(other, place); });
}
void queue(cudaStream_t stream, const Step& step) {
  if (stream && streams[stream].blocking) follow(stream, nullptr);
  if (!stream)
    for (const auto& other : streams)
      if (other.first && other.second.blocking) follow(nullptr, other.first);
  ++streams[stream].queued;
  streams[stream].steps.push_back(step);
}
cudaError_t finish_all() {
  for (auto& each : streams) finish(each.first);
  return lost == cudaSuccess ? lost : fail(lost);
}
}  // namespace

extern "C" {
long emulated_launches() { return launched; }
long emulated_early_launches() { return early; }
long emulated_replays() { return replayed; }
long emulated_copies() { return copied; }
long emulated_pageable() { return pageable; }  // copies from or to memory of the host that is not locked
long emulated_copies_on(cudaStream_t stream) { return copied_on[stream]; }
long emulated_locked() { return locked; }

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  return strncpy(name, "emulated", length), CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? 9
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 0
                                                                       : 1;
  return CUDA_SUCCESS;
}
CUresult cuMemGetInfo(size_t* free, size_t* total) {
  return *total = memory(), *free = *total - used, CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  const char* bytes = static_cast<const char*>(image);
  if (memcmp(bytes, "EMULATED", 8)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  unsigned long long length;
  memcpy(&length, bytes + 8, 8);
  const int file = memfd_create("module", 0);
  for (size_t at = 0; at < length;) {
    const ssize_t count = write(file, bytes + 16 + at, length - at);
    if (count <= 0) return CUDA_ERROR_OUT_OF_MEMORY;
    at += count;
  }
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  *module = static_cast<CUmodule>(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL));
  return *module ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const std::string run = std::string("emulated_run_") + name, keep = std::string("emulated_keep_") + name;
  Function found;
  found.run = reinterpret_cast<int (*)(dim3, dim3, dim3, bool, void**)>(dlsym(module, run.c_str()));
  found.keep = reinterpret_cast<void** (*)(void**)>(dlsym(module, keep.c_str()));
  if (!found.run || !found.keep) return CUDA_ERROR_NOT_FOUND;
  *function = reinterpret_cast<CUfunction>(new Function(found));
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_LAUNCH_FAILED          ? "CUDA_ERROR_LAUNCH_FAILED"
          : error == CUDA_ERROR_ILLEGAL_ADDRESS      ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : error == CUDA_ERROR_NO_BINARY_FOR_GPU    ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : error == CUDA_ERROR_NOT_FOUND            ? "CUDA_ERROR_NOT_FOUND"
                                                     : "CUDA_ERROR_UNKNOWN";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void**) {
  const Function& found = *reinterpret_cast<Function*>(function);
  if (config->gridDimY > 65535 || config->gridDimZ > 65535 || config->sharedMemBytes > 227 * 1024 ||
      config->blockDimX * config->blockDimY * config->blockDimZ > 1024 || !config->gridDimX)
    return CUDA_ERROR_INVALID_VALUE;
  dim3 cluster(1, 1, 1);
  bool follows = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
      follows = config->attrs[i].value.programmaticStreamSerializationAllowed;
      continue;
    }
    if (config->attrs[i].id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) return CUDA_ERROR_NOT_SUPPORTED;
    const auto& size = config->attrs[i].value.clusterDim;
    if (size.y != 1 || size.x * size.z > 8 || config->gridDimX % size.x || config->gridDimZ % size.z)
      return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    cluster = dim3(size.x, size.y, size.z);
  }
  Launch launch{found, dim3(config->gridDimX, config->gridDimY, config->gridDimZ),
                dim3(config->blockDimX, config->blockDimY, config->blockDimZ), cluster, follows, found.keep(arguments)};
  if (captured && config->hStream == capturing) {
    captured->launches.push_back(launch);
    return CUDA_SUCCESS;
  }
  if (lost == cudaSuccess && broken()) lost = cudaErrorLaunchFailure;
  if (lost != cudaSuccess) return static_cast<CUresult>(lost);
  queue(config->hStream, [=] { return run(launch); });
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return lost == cudaSuccess ? lost : fail(lost); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof(*found));
  strcpy(found->name, "emulated");
  found->major = 9, found->multiProcessorCount = 132, found->warpSize = 32, found->totalGlobalMem = memory();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : attribute == cudaDevAttrWarpSize ? 32 : 1;
  if (attribute == cudaDevAttrComputeCapabilityMinor) *value = 0;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return *total = memory(), *free = *total - used, cudaSuccess;
}
cudaError_t cudaMalloc(void** place, size_t size) {
  if (lost != cudaSuccess) return fail(lost);
  if (captured) return fail(cudaErrorStreamCaptureUnsupported);
  if (size > memory() - used) return fail(cudaErrorMemoryAllocation);
  if (posix_memalign(place, 256, size ? size : 1)) return fail(cudaErrorMemoryAllocation);
  memset(*place, 0xA5, size);  // nothing may rely on what was there
  sizes[static_cast<char*>(*place)] = size, used += size;
  return cudaSuccess;
}
cudaError_t cudaFree(void* place) {
  if (finish_all() != cudaSuccess) return lost;
  const auto found = sizes.find(static_cast<char*>(place));
  used -= found->second;
  sizes.erase(found);
  free(place);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** place, size_t size) {
  if (locked + size > limit("EMULATED_LOCKED")) return fail(cudaErrorMemoryAllocation);
  if (posix_memalign(place, 256, size ? size : 1)) return fail(cudaErrorMemoryAllocation);
  memset(*place, 0xA5, size);
  locked_sizes[static_cast<char*>(*place)] = size, locked += size;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* place) {
  if (finish_all() != cudaSuccess) return lost;
  const auto found = locked_sizes.find(static_cast<char*>(place));
  locked -= found->second;
  locked_sizes.erase(found);
  return free(place), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  if (captured) return fail(cudaErrorStreamCaptureUnsupported);
  if (lost == cudaSuccess && broken()) lost = cudaErrorLaunchFailure;
  if (lost != cudaSuccess) return fail(lost);
  ++copied, ++copied_on[stream];
  const bool read = within(sizes, from) || within(locked_sizes, from);
  const bool written = within(sizes, to) || within(locked_sizes, to);
  pageable += !read || !written;
  if (read) {
    queue(stream, [=] { return memcpy(to, from, size), cudaSuccess; });
  } else {
    const std::vector<char> kept(static_cast<const char*>(from), static_cast<const char*>(from) + size);
    queue(stream, [=] { return memcpy(to, kept.data(), size), cudaSuccess; });
  }
  return written ? cudaSuccess : finish(stream);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaPeekAtLastError() { return last; }
cudaError_t cudaGetLastError() {
  const cudaError_t found = last;
  return last = cudaSuccess, found;
}
const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation          ? "out of memory"
         : error == cudaErrorLaunchFailure           ? "unspecified launch failure"
         : error == cudaErrorIllegalAddress          ? "an illegal memory access was encountered"
         : error == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing"
                                                      : "an error";
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = static_cast<cudaStream_t>(malloc(1));
  streams[*stream].blocking = flags != cudaStreamNonBlocking;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return finish(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (captured) return fail(cudaErrorStreamCaptureUnsupported);
  queue(stream, [] { return broken() ? cudaErrorLaunchFailure : cudaSuccess; });
  return finish(stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Event found = *reinterpret_cast<Event*>(event);
  queue(stream, [=] { return finish(found.stream, found.place); });
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = captured && stream == capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return capturing = stream, captured = new Graph(), cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(captured);
  return captured = nullptr, cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  return *made = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph))), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return lost == cudaSuccess ? lost : fail(lost); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
  if (captured && stream == capturing) return fail(cudaErrorStreamCaptureUnsupported);
  if (lost != cudaSuccess) return fail(lost);
  ++replayed;
  for (const Launch& launch : reinterpret_cast<Graph*>(made)->launches)
    queue(stream, [=] { return run(launch); });
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return *event = reinterpret_cast<cudaEvent_t>(new Event{0, nullptr, 0}), cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }  // it may be queued
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Event* found = reinterpret_cast<Event*>(event);
  queue(stream, [=] {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return found->seconds = std::chrono::duration<double>(now).count(), cudaSuccess;
  });
  found->stream = stream, found->place = streams[stream].queued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Event* found = reinterpret_cast<Event*>(event);
  return finish(found->stream, found->place);
}
cudaError_t cudaEventElapsedTime(float* found, cudaEvent_t begin, cudaEvent_t end) {
  const double from = reinterpret_cast<Event*>(begin)->seconds, to = reinterpret_cast<Event*>(end)->seconds;
  return *found = static_cast<float>((to - from) * 1e3), cudaSuccess;
}
}
