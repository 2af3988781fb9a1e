// Chooses the instruction set at run time.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels/kernels.h"

namespace pdb::cpu {

#define PDB_DECLARE_TABLE(isa) \
  namespace isa {              \
  template <class T>           \
  const Kernels<T>& table();   \
  }
PDB_DECLARE_TABLE(generic)
#if defined(__x86_64__)
PDB_DECLARE_TABLE(avx2)
PDB_DECLARE_TABLE(avx512)
#endif

namespace {

template <class T>
const Kernels<T>& choose() {
  const char* variable = std::getenv("PDB_EXT_CPU");
  const std::string wanted = variable ? variable : "";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (has_avx512 && (wanted.empty() || wanted == "avx512")) return avx512::table<T>();
  if (has_avx2 && (wanted.empty() || wanted == "avx2")) return avx2::table<T>();
#endif
  if (wanted.empty() || wanted == "generic") return generic::table<T>();
  throw std::runtime_error("PDB_EXT_CPU must be one of avx512, avx2, generic, and available on this processor; got '" +
                           wanted + "'");
}

}  // namespace

template <class T>
const Kernels<T>& kernels() {
  static const Kernels<T>& chosen = choose<T>();
  return chosen;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace pdb::cpu
