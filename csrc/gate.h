// The packed order of the four gates, wherever they lie in memory one after the other: in the 4C rows of weights and
// biases, in pre-activations and saved activations, and in the gradients of all of these. The members of Gates and
// Peephole (cell.h) have the same order; peephole weights (3, C, H, W) are those of the first three.
#pragma once

#include "cell.h"

namespace pdb {

enum Gate { kGateI, kGateF, kGateO, kGateG };  // input, forget, output, cell candidate

constexpr int kGateCount = 4, kPeepholeCount = 3;

}  // namespace pdb
