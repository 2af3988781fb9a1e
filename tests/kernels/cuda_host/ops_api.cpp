// C entry points to the records and caches of the ops, for ctypes (tests/helpers/cuda_ops_on_host.py).
#include "ops/calls.h"
#include "ops/weight_cache.h"

namespace {

pdb::Call last() { return pdb::last_call().value_or(pdb::Call{"", "", "", "", 0, false}); }

}  // namespace

extern "C" const char* pdb_last_op() { return last().op; }
extern "C" const char* pdb_last_path() { return last().path; }
extern "C" const char* pdb_last_kernel() { return last().kernel; }
extern "C" int pdb_last_layers() { return last().layers; }
extern "C" bool pdb_last_tensor_cores() { return last().tensor_cores; }
extern "C" void pdb_start_caching_weights() { pdb::start_caching_weights(); }
extern "C" void pdb_stop_caching_weights() { pdb::stop_caching_weights(); }
extern "C" void pdb_forget_weights() { pdb::forget_weights(); }
