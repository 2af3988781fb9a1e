// The properties of a GPU by which kernels are chosen.
#pragma once

namespace pdb::cuda {

struct Device {
  int architecture;  // 90: compute capability 9.0
  int multiprocessors;
  int compiled;  // the architecture for which the loaded kernels were compiled; 0: this GPU can run none of them

  bool has_kernels() const { return compiled > 0; }
  bool has_tensor_cores() const { return compiled >= 80; }  // those that mma.h uses
};

// The GPU of the calling thread.
Device current_device();

}  // namespace pdb::cuda
