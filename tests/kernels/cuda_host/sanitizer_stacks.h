// Tells AddressSanitizer when a thread continues on another stack. Does nothing without it.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace pdb::cuda::host {

struct StackRange {
  const void* bottom;
  size_t bytes;
};

// The calling thread's own.
inline StackRange thread_stack() {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* address;
  size_t bytes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &address, &bytes);
  pthread_attr_destroy(&attributes);
  return {address, bytes};
#else
  return {};
#endif
}

// own_fake_stack: where the sanitizer keeps what belongs to the stack that is left; null if it is never resumed.
inline void announce_switch([[maybe_unused]] void** own_fake_stack, [[maybe_unused]] StackRange target) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(own_fake_stack, target.bottom, target.bytes);
#endif
}

inline void announce_arrival([[maybe_unused]] void* own_fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own_fake_stack, nullptr, nullptr);
#endif
}

}  // namespace pdb::cuda::host
