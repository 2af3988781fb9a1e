// See weight_cache.h.
#include "weight_cache.h"

#include <c10/util/intrusive_ptr.h>

#include <algorithm>
#include <mutex>

namespace pdb {
namespace {

constexpr size_t kMostEntries = 256;

// One of the tensors. The weak reference keeps its address from being used for another tensor.
struct Source {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor;
  const void* data;
  uint32_t version;

  explicit Source(const at::Tensor& t) : tensor(t.getIntrusivePtr()), data(t.const_data_ptr()), version(t._version()) {}

  bool is(const at::Tensor& t) const { return tensor._unsafe_get_target() == t.unsafeGetTensorImpl(); }
  bool is_unchanged(const at::Tensor& t) const { return is(t) && data == t.const_data_ptr() && version == t._version(); }
};

struct Entry {
  std::vector<Source> sources;
  PackedForm form;
  at::Tensor packed;

  template <class Test>
  bool matches(const std::vector<at::Tensor>& weights, const PackedForm& wanted, const Test& test) const {
    return form == wanted && std::equal(sources.begin(), sources.end(), weights.begin(), weights.end(), test);
  }
};

struct Cache {
  std::mutex mutex;
  std::vector<Entry> entries;  // the oldest first
  int users = 0;
};

Cache& cache() {
  static Cache* const instance = new Cache;  // never destroyed: CUDA may be gone before static objects are
  return *instance;
}

// Tensors made in inference mode have no version.
bool have_versions(const std::vector<at::Tensor>& weights) {
  return std::none_of(weights.begin(), weights.end(), [](const at::Tensor& t) { return t.is_inference(); });
}

}  // namespace

void start_caching_weights() {
  const std::lock_guard<std::mutex> lock(cache().mutex);
  ++cache().users;
}

void stop_caching_weights() {
  std::vector<Entry> dropped;  // freed without the lock
  const std::lock_guard<std::mutex> lock(cache().mutex);
  if (cache().users > 0 && --cache().users == 0) dropped.swap(cache().entries);
}

bool caches_weights() {
  const std::lock_guard<std::mutex> lock(cache().mutex);
  return cache().users > 0;
}

at::Tensor find_packed(const std::vector<at::Tensor>& weights, const PackedForm& form) {
  if (!have_versions(weights)) return {};
  const std::lock_guard<std::mutex> lock(cache().mutex);
  for (const Entry& entry : cache().entries)
    if (entry.matches(weights, form, [](const Source& s, const at::Tensor& t) { return s.is_unchanged(t); }))
      return entry.packed;
  return {};
}

void keep_packed(const std::vector<at::Tensor>& weights, const PackedForm& form, const at::Tensor& packed) {
  if (!have_versions(weights)) return;
  const std::lock_guard<std::mutex> lock(cache().mutex);
  std::vector<Entry>& entries = cache().entries;
  if (cache().users == 0) return;
  const auto is_outdated = [&](const Entry& entry) {
    const bool gone = std::any_of(entry.sources.begin(), entry.sources.end(), [](const Source& s) { return s.tensor.expired(); });
    return gone || entry.matches(weights, form, [](const Source& s, const at::Tensor& t) { return s.is(t); });
  };
  entries.erase(std::remove_if(entries.begin(), entries.end(), is_outdated), entries.end());
  if (entries.size() == kMostEntries) entries.erase(entries.begin());
  Entry entry{{}, form, packed};
  for (const at::Tensor& weight : weights) entry.sources.emplace_back(weight);
  entries.push_back(std::move(entry));
}

}  // namespace pdb
