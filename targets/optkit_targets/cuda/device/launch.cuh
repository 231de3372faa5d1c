// Kernels may be launched before the one whose results they read has ended (compute capability 9.0: programmatic dependent
// launch): every thread waits for that first, then lets the next kernel be launched, which waits in its turn.
#ifndef OPTKIT_HOST
OPTKIT_DEVICE void optkit_follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif
