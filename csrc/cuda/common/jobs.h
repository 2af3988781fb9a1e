// Several jobs of one kind in one launch: the blocks of one job follow those of another.
#pragma once

#include "cuda/common/launch.h"

namespace pdb::cuda {

// A kernel's argument: at most kJobs jobs.
template <class Job, int kJobs>
struct Jobs {
  Job jobs[kJobs];
  int64_t first_block[kJobs];
  int64_t blocks;  // of all
  int count;

  void add(const Job& job, int64_t its_blocks) {
    jobs[count] = job, first_block[count++] = blocks;
    blocks += its_blocks;
  }

  // The job of this block: the last one that begins at or before it (a job without blocks begins where the next one
  // does).
  __device__ __forceinline__ int find() const {
    int found = 0;
    for (int i = 1; i < count; ++i)
      if (blockIdx.x >= first_block[i]) found = i;
    return found;
  }
};

}  // namespace pdb::cuda
