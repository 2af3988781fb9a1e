// The Python module _C: what is no op. Importing it also registers the ops (convlstm.cpp).
#include <pybind11/pybind11.h>

#include "cpu/kernels.h"

PYBIND11_MODULE(_C, m) {
  m.def("cpu_capability", [] { return pdb::cpu::kernels<float>().name; },
        "The instruction set of the CPU kernels in use: 'avx512', 'avx2' or 'generic'.");
}
