// Memory of the layer's own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pdb::cpu {

// Uninitialised memory, aligned to a cache line; if it is large, to a huge page, which the system is asked for:
// touching new memory page by page can take longer than computing what is written there.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) {
    constexpr size_t kLine = 64, kHugePage = 2 << 20;
    const size_t bytes = size * sizeof(T), alignment = bytes < 2 * kHugePage ? kLine : kHugePage;
    data_ = {static_cast<T*>(::operator new[](bytes, std::align_val_t(alignment))), Free{alignment}};
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a hint: its failure does no harm
#endif
  }
  static Buffer zeros(int64_t size) {
    Buffer buffer(size);
    std::fill_n(buffer.data(), size, T(0));
    return buffer;
  }
  T* data() const { return data_.get(); }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  struct Free {
    size_t alignment = 64;
    void operator()(T* data) const { ::operator delete[](data, std::align_val_t(alignment)); }
  };
  std::unique_ptr<T[], Free> data_;
};

}  // namespace pdb::cpu
