// Sorting by one thread block of 1024 threads, in global memory: Batcher's bitonic network ("Sorting networks and their
// applications", 1968) with the first step of a merge mirrored, so that all comparisons go the same way: then what would
// be behind the last element never moves, and any length will do.
static const int OPTKIT_SORTERS = 1024;

// Whether element i must stand before j; of equal ones the lower index.
template <int LARGEST, typename T>
OPTKIT_DEVICE bool optkit_before(T a, int i, T b, int j) {
  return LARGEST ? a > b || (a == b && i < j) : a < b || (a == b && i < j);
}

// Values and their indices, `count` each, both in order when all threads are back.
template <int LARGEST, typename T>
OPTKIT_DEVICE void optkit_sort(T* values, int* places, int count) {
  __syncthreads();
  for (int level = 0; (1 << level) < count; ++level) {
    for (int step = level; step >= 0; --step) {
      const int apart = 1 << step, pairs = (count + 2 * apart - 1) / (2 * apart) * apart;
      for (int pair = threadIdx.x; pair < pairs; pair += OPTKIT_SORTERS) {
        const int inside = pair & (apart - 1), low = (pair >> step) * 2 * apart + inside;
        const int high = step == level ? low - inside + 2 * apart - 1 - inside : low + apart;
        if (high >= count) continue;
        const T a = values[low], b = values[high];
        const int i = places[low], j = places[high];
        if (optkit_before<LARGEST>(b, j, a, i)) {
          values[low] = b, values[high] = a;
          places[low] = j, places[high] = i;
        }
      }
      __syncthreads();
    }
  }
}

// The `most` first of `count` elements, `apart` from one to the next in x as in what is written.
template <int LARGEST, typename T, typename Index>
OPTKIT_DEVICE void optkit_top_k(const T* x, T* values, Index* indices, T* sorted, int* places, int count, int most,
                                int apart) {
  for (int i = threadIdx.x; i < count; i += OPTKIT_SORTERS) {
    sorted[i] = x[static_cast<long long>(i) * apart];
    places[i] = i;
  }
  optkit_sort<LARGEST>(sorted, places, count);
  for (int i = threadIdx.x; i < most; i += OPTKIT_SORTERS) {
    values[static_cast<long long>(i) * apart] = sorted[i];
    indices[static_cast<long long>(i) * apart] = places[i];
  }
}
