// The Python module _C: everything that is not an op. Importing it also registers the ops (convlstm.cpp).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/kernels/kernels.h"
#include "cpu/packed_cache.h"
#include "ops/calls.h"
#include "ops/weight_cache.h"

namespace {

pybind11::dict to_dict(const pdb::Call& call) {
  using namespace pybind11::literals;
  return pybind11::dict("op"_a = call.op, "device"_a = call.device, "path"_a = call.path, "kernel"_a = call.kernel,
                        "layers"_a = call.layers, "tensor_cores"_a = call.tensor_cores);
}

pybind11::list to_list(const std::vector<pdb::Call>& calls) {
  pybind11::list result;
  for (const pdb::Call& call : calls) result.append(to_dict(call));
  return result;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def(
      "cpu_capability", [] { return pdb::cpu::kernels<float>().name; },
      "The instruction set of the CPU kernels in use: 'avx512', 'avx2' or 'generic'.");
  m.def(
      "last_call",
      []() -> pybind11::object {
        const auto call = pdb::last_call();
        return call ? pybind11::object(to_dict(*call)) : pybind11::none();
      },
      "The last call of an op in this process, or None (calls.h).");
  m.def("start_recording", &pdb::start_recording, "Starts recording calls; returns the number of the next one.");
  m.def(
      "recorded_calls", [](uint64_t first) { return to_list(pdb::recorded_calls(first)); },
      "The calls from this number on.");
  m.def("stop_recording", &pdb::stop_recording, "Ends one start_recording().");
  m.def(
      "clear_packed_weights", [] { pdb::cpu::PackedCache::instance().clear(); },
      "Frees the packed weights that calls on the CPU have left (packed_cache.h).");
  m.def("packed_weights_size", [] { return pdb::cpu::PackedCache::instance().bytes(); }, "Their size in bytes.");
  m.def("start_caching_weights", &pdb::start_caching_weights, "Starts keeping packed weights (weight_cache.h).");
  m.def("stop_caching_weights", &pdb::stop_caching_weights, "Ends one start_caching_weights().");
  m.def("forget_weights", &pdb::forget_weights, "Nothing kept so far, in any thread, will be reused.");
}
