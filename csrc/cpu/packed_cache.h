// Packed weights, kept from call to call: a call of a single step would spend more time on packing than on the step.
//
// What is kept is reused only if the weight has the very bytes that it had when it was packed: they are kept too, and
// compared at every call, which takes a small part of the time of packing. So nothing needs to know who may change a
// weight and when (optimizers, load_state_dict, `.data`, collectives, memory that was freed and allocated again).
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/buffer.h"

namespace pdb::cpu {

// What identifies a weight before its bytes are compared: where it lies, and the form in which it is packed.
struct PackedKey {
  const void *x, *h;  // the two weights, or null
  int64_t x_bytes, h_bytes;
  int64_t rows, channels, positions, row_block, reach_y;
  int element_size;
  bool transposed;

  bool operator==(const PackedKey& other) const;
};

// A packed weight and the weight itself. Never changed once it is in the cache.
struct PackedEntry {
  PackedKey key;
  int64_t original_bytes, packed_bytes;
  Buffer<char> original, packed;

  int64_t bytes() const { return original_bytes + packed_bytes; }
};

// Thread safe, also across fork(). At most as many bytes as the environment variable PDB_EXT_WEIGHT_CACHE says, in MB
// (0: nothing is kept); what was used least recently goes first.
class PackedCache {
 public:
  static PackedCache& instance();

  // Whether something of this size can be kept at all.
  bool takes(int64_t bytes) const { return bytes <= limit_; }
  // The entry with this key, or null. Its bytes may be those of another weight.
  std::shared_ptr<const PackedEntry> find(const PackedKey& key);
  // Room for an entry with this key: the memory of an outdated one if nobody uses it.
  std::shared_ptr<PackedEntry> prepare(const PackedKey& key, int64_t original_bytes, int64_t packed_bytes);
  // Keeps an entry, and lets go of others until all fit.
  void keep(std::shared_ptr<const PackedEntry> entry);

  void clear();
  int64_t bytes();

 private:
  PackedCache();

  struct Entries;
  Entries* const entries_;  // never destroyed: other threads may outlive static objects
  int64_t limit_;
};

}  // namespace pdb::cpu
