// The scheduler of cuda_host.h.
#include "launch.h"

#include <pthread.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace pdb::cuda::host {

Index thread_index, block_index, block_dim, grid_dim;
int compiled_architecture = 90;

namespace {

constexpr size_t kStackBytes = 256 * 1024;

enum class State { runnable, at_barrier, at_exchange, finished };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::runnable;
  const char* file = nullptr;  // of the barrier it waits at
  int line = 0;
  int exchanges = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's, while it does not run
};

std::mt19937_64 generator;
std::vector<Fiber> fibers;
Fiber scheduler;
const std::function<void()>* body;
std::vector<char> shared;
// Two buffers a warp, used in turn: a lane may give its next words while others still read the last ones.
std::vector<std::array<WarpWords, 2>> warp_words;
bool shared_used;
int64_t first_block = 0;
std::string ignored_file;
int ignored_line;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "cuda_host: block %u: %s\n", block_index.x, message);
  std::abort();
}

// AddressSanitizer must know which stack is in use.
void announce_switch([[maybe_unused]] Fiber& from, [[maybe_unused]] Fiber& to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  static const void* scheduler_stack;
  static size_t scheduler_bytes;
  const bool leaving = &from == &scheduler;
  if (leaving && !scheduler_stack) {
    pthread_attr_t attributes;
    void* address;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &address, &scheduler_bytes);
    pthread_attr_destroy(&attributes);
    scheduler_stack = address;
  }
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, leaving ? to.stack.get() : scheduler_stack,
                                 leaving ? kStackBytes : scheduler_bytes);
#endif
}

void announce_arrival([[maybe_unused]] Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

void switch_fiber(Fiber& from, Fiber& to, bool last) {
  announce_switch(from, to, last);
  swapcontext(&from.context, &to.context);
  announce_arrival(from);
}

void thread_main() {
  Fiber& self = fibers[thread_index.x];
  announce_arrival(self);
  (*body)();
  self.state = State::finished;
  switch_fiber(self, scheduler, true);
}

void start(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.state = State::runnable;
  fiber.exchanges = 0;
  fiber.fake_stack = nullptr;
  makecontext(&fiber.context, thread_main, 0);
}

// Whether threads [begin, end) are all in this state, and at the same place of the program.
bool all_in(State state, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (fibers[i].state != state) return false;
    if (state == State::at_barrier && (fibers[i].file != fibers[begin].file || fibers[i].line != fibers[begin].line))
      fail("threads wait at different barriers");
  }
  return true;
}

void release(int begin, int end) {
  for (int i = begin; i < end; ++i) fibers[i].state = State::runnable;
}

// Lets those go on whom nobody keeps waiting; warps with a probability of their own, so that some run ahead of others.
// False if there is no such thread.
bool release_waiting(int threads, const std::vector<double>& speeds) {
  if (all_in(State::at_barrier, 0, threads)) {
    release(0, threads);
    return true;
  }
  bool any = false;
  for (int warp = 0; warp < threads; warp += 32) {
    if (!all_in(State::at_exchange, warp, warp + 32)) continue;
    if (std::bernoulli_distribution(speeds[warp / 32])(generator)) release(warp, warp + 32);
    any = true;
  }
  return any;
}

void run_block(int threads) {
  shared_used = false;
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  std::vector<double> speeds(threads / 32);
  for (double& speed : speeds) speed = std::uniform_real_distribution<>(0.1, 1)(generator);
  for (int i = 0; i < threads; ++i) start(fibers[i]);
  while (!all_in(State::finished, 0, threads)) {
    std::shuffle(order.begin(), order.end(), generator);
    for (unsigned thread : order) {
      if (fibers[thread].state != State::runnable) continue;
      thread_index.x = thread;
      switch_fiber(scheduler, fibers[thread], false);
    }
    if (!release_waiting(threads, speeds) && !all_in(State::finished, 0, threads))
      fail("a barrier that only some threads reach");
  }
}

}  // namespace

void barrier(const char* file, int line) {
  if (line == ignored_line && std::filesystem::path(file).filename() == ignored_file) return;
  Fiber& self = fibers[thread_index.x];
  self.state = State::at_barrier;
  self.file = file;
  self.line = line;
  switch_fiber(self, scheduler, false);
}

const WarpWords& exchange(const uint32_t (&words)[6]) {
  const unsigned thread = thread_index.x;
  Fiber& self = fibers[thread];
  WarpWords& all = warp_words[thread / 32][self.exchanges++ % 2];
  std::copy_n(words, 6, all[thread % 32].begin());
  self.state = State::at_exchange;
  switch_fiber(self, scheduler, false);
  return all;
}

void* shared_memory(size_t bytes) {
  if (!shared_used) {
    shared_used = true;
    std::vector<char>(bytes, '\xFF').swap(shared);
  }
  if (shared.size() != bytes) fail("a kernel with two kinds of shared storage");
  return shared.data();
}

void run_grid(int64_t blocks, int threads, const std::function<void()>& thread_body) {
  if (blocks > INT_MAX || threads > 1024 || threads % 32) fail("a grid that no GPU takes");
  body = &thread_body;
  if (fibers.size() < size_t(threads)) fibers = std::vector<Fiber>(threads);
  warp_words.resize(threads / 32);
  block_dim.x = static_cast<unsigned>(threads);
  grid_dim.x = static_cast<unsigned>(blocks);
  const int64_t first = first_block < 0 ? blocks + first_block : first_block;
  for (block_index.x = static_cast<unsigned>(first); block_index.x < grid_dim.x; ++block_index.x) run_block(threads);
}

void run_blocks_from(int64_t block) { first_block = block; }

void set_seed(uint64_t seed) { generator.seed(seed); }

void ignore_barrier(const char* file, int line) {
  ignored_file = file ? file : "";
  ignored_line = line;
}

}  // namespace pdb::cuda::host
