// A packed weight: from the cache where a call is short (packed_cache.h), else packed for this call.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>

#include "cpu/packed_cache.h"
#include "cpu/plan.h"

namespace pdb::cpu {

// Calls body(begin, size, at) in parallel for pieces of both weights: bytes [begin, begin + size) of all of them, which
// are at `at`.
template <class T, class Body>
void for_each_piece(const Plan<T>& plan, const PackedKey& key, const Body& body) {
  constexpr int64_t kPiece = 1 << 16, kWork = 6000;  // copying or comparing it takes as long as so many products
  const auto pieces = [&](const void* data, int64_t bytes, int64_t first) {
    plan.parallel((bytes + kPiece - 1) / kPiece, kWork, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin * kPiece; at < std::min(end * kPiece, bytes); at += kPiece)
        body(first + at, std::min(kPiece, bytes - at), static_cast<const char*>(data) + at);
    });
  };
  pieces(key.x, key.x_bytes, 0);
  pieces(key.h, key.h_bytes, key.x_bytes);
}

template <class T>
bool is_unchanged(const Plan<T>& plan, const PackedEntry& entry) {
  std::atomic<bool> equal{true};
  for_each_piece(plan, entry.key, [&](int64_t begin, int64_t size, const char* at) {
    if (equal && std::memcmp(entry.original.data() + begin, at, size) != 0) equal = false;
  });
  return equal;
}

template <class T>
void pack(const Plan<T>& plan, const PackedWeight<T>& form, const WeightPair<const T>& weights, T* packed) {
  plan.parallel(form.blocks(), form.block_size(), [&](int64_t begin, int64_t end) {
    const Buffer<T> filters(form.filters_size(weights.area));
    for (int64_t block = begin; block < end; ++block) form.pack(weights, block, filters.data(), packed);
  });
}

template <class T>
std::shared_ptr<const T> packed_weight(const Plan<T>& plan, const WeightPair<const T>& weights, int64_t rows,
                                       int64_t channels, bool transposed) {
  const PackedWeight<T> form = plan.packed(rows, channels, plan.winograd, transposed);
  const int64_t size = form.blocks() * form.block_size(), outer = transposed ? channels : rows;
  const auto bytes = [&](int64_t values) { return values * static_cast<int64_t>(sizeof(T)); };
  const PackedKey key{weights.x,
                      weights.h,
                      bytes(outer * weights.x_channels * weights.area),
                      bytes(outer * weights.h_channels * weights.area),
                      rows,
                      channels,
                      form.positions(),
                      plan.kernel.row_block,
                      plan.window.reach_y,
                      int(sizeof(T)),
                      transposed};
  const int64_t original = key.x_bytes + key.h_bytes;
  PackedCache& cache = PackedCache::instance();
  if (plan.pixels_of_call() > kMostPixelsToKeep || !cache.takes(original + bytes(size))) {
    const auto buffer = std::make_shared<const Buffer<T>>(size);
    pack(plan, form, weights, buffer->data());
    return {buffer, buffer->data()};
  }
  std::shared_ptr<const PackedEntry> entry = cache.find(key);
  if (!entry || !is_unchanged(plan, *entry)) {
    entry.reset();  // so that its memory can serve again
    const std::shared_ptr<PackedEntry> fresh = cache.prepare(key, original, bytes(size));
    for_each_piece(plan, key, [&](int64_t begin, int64_t some, const char* at) {
      std::memcpy(fresh->original.data() + begin, at, some);
    });
    // From the copy, so that what is kept belongs together even if another thread writes to the weights meanwhile.
    WeightPair<const T> copied = weights;
    copied.x = reinterpret_cast<const T*>(fresh->original.data());
    copied.h = reinterpret_cast<const T*>(fresh->original.data() + key.x_bytes);
    pack(plan, form, copied, reinterpret_cast<T*>(fresh->packed.data()));
    cache.keep(fresh);
    entry = fresh;
  }
  return {entry, reinterpret_cast<const T*>(entry->packed.data())};
}

}  // namespace pdb::cpu
