// Runs kernels of one operator after the other: twenty launches as a graph, with and without launching each before the last
// one has ended; the least of five replays, and how far results are from those of the operator's first kernel. Behind
// `struct Tile` and the table `operators()` that benchmarks/cuda_tiles.py writes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#define CHECK(call)                                                                                     \
  do {                                                                                                  \
    const cudaError_t failed = (call);                                                                  \
    if (failed != cudaSuccess) return std::printf("failed: %s\n", cudaGetErrorString(failed)), false;  \
  } while (0)

static const int LAUNCHES = 20, REPLAYS = 5;

static bool timed(cudaStream_t stream, const cudaLaunchConfig_t& config, const Tile& tile, void** arguments, float* least) {
  cudaGraph_t graph;
  cudaGraphExec_t made;
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < LAUNCHES; ++i) CHECK(cudaLaunchKernelExC(&config, tile.kernel, arguments));
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&made, graph, 0));
  *least = 1e9f;
  for (int i = 0; i <= REPLAYS; ++i) {
    float milliseconds;
    CHECK(cudaEventRecord(begin, stream));
    CHECK(cudaGraphLaunch(made, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i) *least = std::min(*least, milliseconds * 1000 / LAUNCHES);
  }
  CHECK(cudaGraphExecDestroy(made));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  return true;
}

static bool run(const std::vector<Operator>& operators) {
  long left = 0, right = 0, results = 0;
  for (const Operator& each : operators) {
    left = std::max(left, each.left), right = std::max(right, each.right), results = std::max(results, each.results);
  }
  char *a, *b;
  float* out;
  cudaStream_t stream;
  CHECK(cudaMalloc(&a, left));
  CHECK(cudaMalloc(&b, right));
  CHECK(cudaMalloc(&out, results * 4));
  CHECK(cudaStreamCreate(&stream));
  // Bytes that are small numbers as integers and as halves.
  std::vector<unsigned char> bytes(std::max(left, right));
  unsigned state = 1;
  for (size_t i = 0; i < bytes.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    bytes[i] = i % 2 ? 0x2c + (state >> 24) % 12 : state >> 24 & 0x7f;
  }
  CHECK(cudaMemcpy(a, bytes.data(), left, cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(b, bytes.data(), right, cudaMemcpyHostToDevice));
  for (const Operator& each : operators) {
    std::vector<float> wanted, found(each.results);
    for (const Tile& tile : each.tiles) {
      CHECK(cudaFuncSetAttribute(tile.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, tile.shared));
      CHECK(cudaMemset(out, 0xff, each.results * 4));
      cudaLaunchAttribute attributes[2];
      attributes[0].id = cudaLaunchAttributeClusterDimension;
      attributes[0].val.clusterDim.x = tile.cast;
      attributes[0].val.clusterDim.y = 1;
      attributes[0].val.clusterDim.z = tile.parts;
      attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[1].val.programmaticStreamSerializationAllowed = 1;
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(tile.down, tile.across, tile.parts);
      config.blockDim = dim3(tile.threads);
      config.dynamicSmemBytes = tile.shared;
      config.stream = stream;
      config.attrs = attributes;
      config.numAttrs = 1;
      void* arguments[] = {&out, &a, &b};
      CHECK(cudaLaunchKernelExC(&config, tile.kernel, arguments));
      CHECK(cudaStreamSynchronize(stream));
      CHECK(cudaMemcpy(found.data(), out, each.results * 4, cudaMemcpyDeviceToHost));
      if (wanted.empty()) wanted = found;
      double error = 0, largest = 0;
      for (long i = 0; i < each.results; ++i) {
        const double apart = std::fabs(static_cast<double>(wanted[i]) - found[i]);
        error = apart <= error ? error : apart;
        largest = std::max(largest, std::fabs(static_cast<double>(wanted[i])));
      }
      float alone, early;
      if (!timed(stream, config, tile, arguments, &alone)) return false;
      config.numAttrs = 2;
      if (!timed(stream, config, tile, arguments, &early)) return false;
      std::printf("%s|%s|%.3f|%.3f|%.3g\n", each.text, tile.params, alone, early, error / largest);
      std::fflush(stdout);
    }
  }
  return true;
}

int main() { return run(operators()) ? 0 : 1; }
