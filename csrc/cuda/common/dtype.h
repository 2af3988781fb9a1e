// Storage types of the CUDA kernels. Half and BFloat16 are bare bits, so that this header needs neither torch nor CUDA;
// arithmetic is done in accumulation_t<T>.
#pragma once

namespace pdb::cuda {

struct Half {
  unsigned short bits;
};

struct BFloat16 {
  unsigned short bits;
};

template <class T>
struct Accumulation {
  using type = float;
};

template <>
struct Accumulation<double> {
  using type = double;
};

template <class T>
using accumulation_t = typename Accumulation<T>::type;

}  // namespace pdb::cuda

// Instantiates a template launcher for every storage type.
#define PDB_FOR_EACH_DTYPE(INSTANTIATE) \
  INSTANTIATE(float)                    \
  INSTANTIATE(double)                   \
  INSTANTIATE(pdb::cuda::Half)          \
  INSTANTIATE(pdb::cuda::BFloat16)

// The same for the types whose products run on tensor cores (float: as TF32).
#define PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE) \
  INSTANTIATE(float)                        \
  INSTANTIATE(pdb::cuda::Half)              \
  INSTANTIATE(pdb::cuda::BFloat16)
