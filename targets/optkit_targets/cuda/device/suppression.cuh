// Greedy non-maximum suppression by one thread block of 1024 threads: candidates in order of their scores; every one
// that is kept is compared with all behind it at once.

// Corners of a box, lower first; they come in any order, or as center and size.
template <int CENTERED>
OPTKIT_DEVICE void optkit_corners(float* corners, const float* box) {
  const float a = box[0], b = box[1], c = box[2], d = box[3];
  if (CENTERED) {
    corners[0] = b - d * 0.5f, corners[1] = a - c * 0.5f, corners[2] = b + d * 0.5f, corners[3] = a + c * 0.5f;
  } else {
    corners[0] = min(a, c), corners[1] = min(b, d), corners[2] = max(a, c), corners[3] = max(b, d);
  }
}

// Whether intersection over union is above the limit; never for a box without area.
OPTKIT_DEVICE bool optkit_overlap(const float* a, const float* b, float limit) {
  const float height = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0f);
  const float width = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0f);
  const float common = height * width;
  const float first = (a[2] - a[0]) * (a[3] - a[1]), second = (b[2] - b[0]) * (b[3] - b[1]);
  const float both = first + second - common;
  return common > 0.0f && first > 0.0f && second > 0.0f && both > 0.0f && common / max(both, 1e-38f) > limit;
}

// Boxes of one class that are kept, by descending score, and how many.
//   most: of them; limit: of intersection over union; least: scores are above it, or LEAST = 0 and all are candidates
//   sorted, places, corners: of `count` candidates
// Not static: its shared memory would be called by a name that nvcc draws anew every time.
template <int CENTERED, int LEAST>
OPTKIT_MEMBER void optkit_suppress(const float* boxes, const float* scores, int* kept, int* counts, float* sorted,
                                   int* places, float* corners, int count, long long most, float limit, float least) {
  __shared__ int shared[2];
  int* candidates = shared;
  int* next = shared + 1;
  if (threadIdx.x == 0) *candidates = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += OPTKIT_SORTERS) {
    if (LEAST && !(scores[i] > least)) continue;
    const int place = atomicAdd(candidates, 1);
    sorted[place] = scores[i], places[place] = i;
  }
  __syncthreads();
  const int all = *candidates;
  optkit_sort<1>(sorted, places, all);
  for (int i = threadIdx.x; i < all; i += OPTKIT_SORTERS) {
    optkit_corners<CENTERED>(corners + 4 * i, boxes + 4 * places[i]);
  }
  int chosen = 0;
  for (int at = 0; at < all && chosen < most; ++chosen) {
    if (threadIdx.x == 0) kept[chosen] = places[at], *next = all;
    __syncthreads();
    const float* box = corners + 4 * at;
    int first = all;
    for (int i = at + 1 + threadIdx.x; i < all; i += OPTKIT_SORTERS) {
      if (places[i] < 0) continue;
      if (optkit_overlap(corners + 4 * i, box, limit)) {
        places[i] = -1;
      } else if (first == all) {
        first = i;
      }
    }
    if (first < all) atomicMin(next, first);
    __syncthreads();
    at = *next;
    __syncthreads();
  }
  if (threadIdx.x == 0) *counts = chosen;
}
