// Stands in for c10's header when csrc/ops/cuda runs on the host.
#pragma once

#include <c10/util/Exception.h>

using cudaError_t = int;

#define C10_CUDA_CHECK(error) TORCH_CHECK((error) == 0, "CUDA error ", (error))
