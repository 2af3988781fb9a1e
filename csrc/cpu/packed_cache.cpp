// See packed_cache.h.
#include "cpu/packed_cache.h"

#include <cstdlib>
#include <list>
#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pdb::cpu {
namespace {

constexpr int64_t kDefaultMegabytes = 512;
constexpr size_t kMostEntries = 256;

int64_t limit_from_environment() {
  const char* variable = std::getenv("PDB_EXT_WEIGHT_CACHE");
  const int64_t megabytes = variable && *variable ? std::strtoll(variable, nullptr, 10) : kDefaultMegabytes;
  return std::clamp<int64_t>(megabytes, 0, int64_t(1) << 40) << 20;
}

}  // namespace

bool PackedKey::operator==(const PackedKey& o) const {
  return x == o.x && h == o.h && x_bytes == o.x_bytes && h_bytes == o.h_bytes && rows == o.rows &&
         channels == o.channels && positions == o.positions && row_block == o.row_block && reach_y == o.reach_y &&
         element_size == o.element_size && transposed == o.transposed;
}

struct PackedCache::Entries {
  using List = std::list<std::shared_ptr<const PackedEntry>>;
  using Lock = std::lock_guard<std::mutex>;

  std::mutex mutex;
  List list;  // what was used last comes first
  int64_t bytes = 0;

  List::iterator position(const PackedKey& key) {
    return std::find_if(list.begin(), list.end(), [&](const auto& entry) { return entry->key == key; });
  }
  std::shared_ptr<const PackedEntry> take(List::iterator at) {
    const std::shared_ptr<const PackedEntry> entry = std::move(*at);
    list.erase(at);
    bytes -= entry->bytes();
    return entry;
  }
};

PackedCache& PackedCache::instance() {
  static PackedCache cache;
  return cache;
}

PackedCache::PackedCache() : entries_(new Entries), limit_(limit_from_environment()) {
#if defined(__unix__) || defined(__APPLE__)
  // A child of fork() has only the thread that called it: no other may hold the lock at that moment.
  static Entries* const entries = entries_;
  pthread_atfork([] { entries->mutex.lock(); }, [] { entries->mutex.unlock(); }, [] { entries->mutex.unlock(); });
#endif
}

std::shared_ptr<const PackedEntry> PackedCache::find(const PackedKey& key) {
  const Entries::Lock lock(entries_->mutex);
  const auto at = entries_->position(key);
  if (at == entries_->list.end()) return nullptr;
  entries_->list.splice(entries_->list.begin(), entries_->list, at);
  return *at;
}

std::shared_ptr<PackedEntry> PackedCache::prepare(const PackedKey& key, int64_t original_bytes, int64_t packed_bytes) {
  {
    const Entries::Lock lock(entries_->mutex);
    const auto at = entries_->position(key);
    if (at != entries_->list.end()) {
      const std::shared_ptr<const PackedEntry> outdated = entries_->take(at);
      // Out of the list, and referred to here alone: nobody else can come by it.
      if (outdated.use_count() == 1) return std::const_pointer_cast<PackedEntry>(outdated);
    }
  }
  return std::shared_ptr<PackedEntry>(
      new PackedEntry{key, original_bytes, packed_bytes, Buffer<char>(original_bytes), Buffer<char>(packed_bytes)});
}

void PackedCache::keep(std::shared_ptr<const PackedEntry> entry) {
  Entries::List dropped;  // freed after the lock
  const Entries::Lock lock(entries_->mutex);
  const auto drop = [&](Entries::List::iterator at) { dropped.push_back(entries_->take(at)); };
  const auto same = entries_->position(entry->key);  // another thread may have been faster
  if (same != entries_->list.end()) drop(same);
  entries_->bytes += entry->bytes();
  entries_->list.push_front(std::move(entry));
  while (entries_->bytes > limit_ || entries_->list.size() > kMostEntries) drop(std::prev(entries_->list.end()));
}

void PackedCache::clear() {
  Entries::List dropped;
  const Entries::Lock lock(entries_->mutex);
  dropped.swap(entries_->list);
  entries_->bytes = 0;
}

int64_t PackedCache::bytes() {
  const Entries::Lock lock(entries_->mutex);
  return entries_->bytes;
}

}  // namespace pdb::cpu
