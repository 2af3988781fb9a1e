// C entry points to csrc/cuda on the host, for ctypes (tests/helpers/cuda_on_host.py).
#include <exception>

#include "cuda/choose_path.h"
#include "cuda/common/launch.h"

namespace {

using namespace pdb::cuda;
using pdb::Layer;
using pdb::PeepholeWeights;

// The arrays in the order of ForwardTensors and BackwardTensors; the peephole strides are separate.
struct Arguments {
  Layer layer;
  int64_t peephole_stride[4];
  bool is_packed;
  void* arrays[32];
};

template <class T>
PeepholeWeights<T> peephole(const Arguments& arguments, void* data) {
  const int64_t* s = arguments.peephole_stride;
  return {static_cast<const T*>(data), s[0], s[1], s[2], s[3]};
}

template <class T>
int run_forward(const Arguments& arguments) {
  using A = accumulation_t<T>;
  void* const* a = arguments.arrays;
  auto t = [&](int i) { return static_cast<T*>(a[i]); };
  auto acc = [&](int i) { return static_cast<A*>(a[i]); };
  return forward<T>(arguments.layer,
                    {t(0), t(1), t(2), t(3), peephole<T>(arguments, a[4]), t(5), t(6), t(7), t(8), t(9), acc(10),
                     acc(11), arguments.is_packed, acc(12)},
                    nullptr);
}

template <class T>
int run_backward(const Arguments& arguments) {
  using A = accumulation_t<T>;
  void* const* a = arguments.arrays;
  auto t = [&](int i) { return static_cast<T*>(a[i]); };
  auto acc = [&](int i) { return static_cast<A*>(a[i]); };
  return backward<T>(arguments.layer, {t(0),  t(1),  t(2),  t(3),  t(4),    t(5),    peephole<T>(arguments, a[6]),
                                       t(7),  t(8),  t(9),  t(10), acc(11), t(12),   t(13),
                                       t(14), t(15), t(16), t(17), t(18),   nullptr, acc(19)},
                     nullptr);
}

}  // namespace

// dtype: 0 float, 1 double, 2 half, 3 bfloat16. Returns 0, or an error code.
extern "C" int pdb_forward(int dtype, const Arguments* a) {
  switch (dtype) {
    case 0: return run_forward<float>(*a);
    case 1: return run_forward<double>(*a);
    case 2: return run_forward<Half>(*a);
    case 3: return run_forward<BFloat16>(*a);
  }
  return -1;
}

extern "C" int pdb_backward(int dtype, const Arguments* a) {
  switch (dtype) {
    case 0: return run_backward<float>(*a);
    case 1: return run_backward<double>(*a);
    case 2: return run_backward<Half>(*a);
    case 3: return run_backward<BFloat16>(*a);
  }
  return -1;
}

// Elements of the accumulation type.
extern "C" int64_t pdb_forward_packed(int dtype, const Arguments* a) {
  switch (dtype) {
    case 0: return forward_packed<float>(a->layer);
    case 1: return forward_packed<double>(a->layer);
    case 2: return forward_packed<Half>(a->layer);
    case 3: return forward_packed<BFloat16>(a->layer);
  }
  return -1;
}

extern "C" int64_t pdb_forward_workspace(int dtype, const Arguments* a, int cells) {
  switch (dtype) {
    case 0: return forward_workspace<float>(a->layer, cells);
    case 1: return forward_workspace<double>(a->layer, cells);
    case 2: return forward_workspace<Half>(a->layer, cells);
    case 3: return forward_workspace<BFloat16>(a->layer, cells);
  }
  return -1;
}

extern "C" int64_t pdb_backward_workspace(int dtype, const Arguments* a, int gates) {
  switch (dtype) {
    case 0: return backward_workspace<float>(a->layer, gates);
    case 1: return backward_workspace<double>(a->layer, gates);
    case 2: return backward_workspace<Half>(a->layer, gates);
    case 3: return backward_workspace<BFloat16>(a->layer, gates);
  }
  return -1;
}

// The CudaPath, or -1 for a wrong value of the environment variable.
extern "C" int pdb_choose_path(const Arguments* a, int64_t element_size, int architecture, int multiprocessors,
                               int pass) {
  try {
    const Device device{architecture, multiprocessors, architecture};
    return static_cast<int>(choose_path({&a->layer, 1, 1}, element_size, device, static_cast<Pass>(pass)));
  } catch (const std::exception&) {
    return -1;
  }
}

// Whether one launch can run a pyramid of such layers: two branches of dilation 1 and 2, forward and backward in time.
extern "C" bool pdb_pyramid_fits(int dtype, const Arguments* a, bool backward) {
  Layer layers[4] = {a->layer, a->layer, a->layer, a->layer};
  for (int i = 0; i < 4; ++i) layers[i].dilation = 1 + i / 2, layers[i].reverse = i % 2 == 1;
  return persistent_fits({layers, 2, 2},
                         dtype == 0   ? 4
                         : dtype == 1 ? 8
                                      : 2,
                         backward ? Pass::backward : Pass::forward);
}

// The architecture for which the emulated GPU says its kernels were compiled; 0: none were.
extern "C" void pdb_set_architecture(int architecture) { host::compiled_architecture = architecture; }
extern "C" void pdb_set_device_errors(int which) { pdb::device_errors = which; }
extern "C" void pdb_set_seed(uint64_t seed) { host::set_seed(seed); }
extern "C" void pdb_inject(int fault, const char* file, int line) { host::inject(host::Fault(fault), file, line); }
// Since the last call.
extern "C" int pdb_cooperative_launches() {
  const int count = host::cooperative_launches;
  host::cooperative_launches = 0;
  return count;
}
extern "C" void pdb_set_resident_blocks(int64_t blocks) { host::resident_blocks = blocks; }
extern "C" void pdb_narrow(int half, float value, uint16_t* bits) {
  if (half) {
    Half result;
    narrow(value, result);
    *bits = result.bits;
  } else {
    BFloat16 result;
    narrow(value, result);
    *bits = result.bits;
  }
}
