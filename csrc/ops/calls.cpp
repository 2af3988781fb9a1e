// See calls.h.
#include "ops/calls.h"

#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pdb {
namespace {

struct Log {
  std::mutex mutex;
  std::optional<Call> last;
  std::vector<Call> kept;
  uint64_t first = 0;  // number of kept[0]
  int recorders = 0;
};

Log& log();

Log* make_log() {
#if defined(__unix__) || defined(__APPLE__)
  // A child of fork() has only the thread that called it: no other may hold the lock at that moment.
  pthread_atfork([] { log().mutex.lock(); }, [] { log().mutex.unlock(); }, [] { log().mutex.unlock(); });
#endif
  return new Log;
}

Log& log() {
  static Log* const instance = make_log();  // never destroyed: threads of autograd may outlive static objects
  return *instance;
}

}  // namespace

void record_call(const Call& call) {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  l.last = call;
  if (l.recorders > 0) l.kept.push_back(call);
}

std::optional<Call> last_call() {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  return l.last;
}

uint64_t start_recording() {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  ++l.recorders;
  return l.first + l.kept.size();
}

std::vector<Call> recorded_calls(uint64_t first) {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  if (first < l.first || first > l.first + l.kept.size()) return {};
  return {l.kept.begin() + static_cast<std::ptrdiff_t>(first - l.first), l.kept.end()};
}

void stop_recording() {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  if (l.recorders == 0 || --l.recorders > 0) return;
  l.first += l.kept.size();
  l.kept.clear();
}

}  // namespace pdb
