// See weight_cache.h.
#include "ops/weight_cache.h"

#include <c10/util/intrusive_ptr.h>

#include <algorithm>
#include <atomic>

namespace pdb {
namespace {

constexpr size_t kMostEntries = 256;

// One of the tensors. The weak references keep its address and its storage's from being reused: assigning `.data`
// changes the storage but not the version, and freed memory is soon allocated again.
struct Source {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  const void* data;
  uint32_t version;
  std::vector<int64_t> sizes, strides;

  explicit Source(const at::Tensor& t)
      : tensor(t.getIntrusivePtr()),
        storage(storage_of(t)),
        data(t.const_data_ptr()),
        version(t._version()),
        sizes(t.sizes().vec()),
        strides(t.strides().vec()) {}

  bool is(const at::Tensor& t) const { return tensor._unsafe_get_target() == t.unsafeGetTensorImpl(); }
  bool is_unchanged(const at::Tensor& t) const {
    return is(t) && storage._unsafe_get_target() == t.storage().unsafeGetStorageImpl() && data == t.const_data_ptr() &&
           version == t._version() && t.sizes() == sizes && t.strides() == strides;
  }

  static c10::weak_intrusive_ptr<c10::StorageImpl> storage_of(const at::Tensor& t) {
    return c10::weak_intrusive_ptr<c10::StorageImpl>(
        c10::intrusive_ptr<c10::StorageImpl>::unsafe_reclaim_from_nonowning(t.storage().unsafeGetStorageImpl()));
  }
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
  std::vector<Entry> entries;  // the oldest first
  int users = 0;
  uint64_t forgotten = 0;  // the count of forget_weights() when the entries were last checked
};

std::atomic<uint64_t> forgotten{0};

Cache& cache() {
  thread_local Cache instance;
  if (const uint64_t now = forgotten; instance.forgotten != now) instance.entries.clear(), instance.forgotten = now;
  return instance;
}

// Tensors made in inference mode have no version.
bool have_versions(const std::vector<at::Tensor>& weights) {
  return std::none_of(weights.begin(), weights.end(), [](const at::Tensor& t) { return t.is_inference(); });
}

}  // namespace

void start_caching_weights() { ++cache().users; }

void stop_caching_weights() {
  if (cache().users > 0 && --cache().users == 0) cache().entries.clear();
}

bool caches_weights() { return cache().users > 0; }

void forget_weights() { ++forgotten; }

at::Tensor find_packed(const std::vector<at::Tensor>& weights, const PackedForm& form) {
  if (!have_versions(weights)) return {};
  for (const Entry& entry : cache().entries)
    if (entry.matches(weights, form, [](const Source& s, const at::Tensor& t) { return s.is_unchanged(t); }))
      return entry.packed;
  return {};
}

void keep_packed(const std::vector<at::Tensor>& weights, const PackedForm& form, const at::Tensor& packed) {
  std::vector<Entry>& entries = cache().entries;
  if (!caches_weights() || !have_versions(weights)) return;
  const auto is_outdated = [&](const Entry& entry) {
    const auto is_gone = [](const Source& source) { return source.tensor.expired(); };
    return std::any_of(entry.sources.begin(), entry.sources.end(), is_gone) ||
           entry.matches(weights, form, [](const Source& s, const at::Tensor& t) { return s.is(t); });
  };
  entries.erase(std::remove_if(entries.begin(), entries.end(), is_outdated), entries.end());
  if (entries.size() == kMostEntries) entries.erase(entries.begin());
  Entry entry{{}, form, packed};
  for (const at::Tensor& weight : weights) entry.sources.emplace_back(weight);
  entries.push_back(std::move(entry));
}

}  // namespace pdb
