// The scheduler of cuda_host.h.
#include "cuda/common/launch.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "sanitizer_stacks.h"

#if defined(PDB_DEVICE_FUNCTIONS)
int pdb::device_errors = 0;
#endif

namespace pdb::cuda::host {

Index thread_index, block_index, block_dim, grid_dim;
int compiled_architecture = 90;

namespace {

constexpr size_t kStackBytes = 256 * 1024;

// polling: runnable, but the last look at the flag was in vain.
enum class State { runnable, polling, at_barrier, at_exchange, finished };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::runnable;
  const char* file = nullptr;  // of the barrier that it waits at
  int line = 0;
  int exchanges = 0;
  unsigned block = 0, thread = 0;
  WaitingFor waiting{};        // while it polls
  void* fake_stack = nullptr;  // AddressSanitizer's, while the fiber does not run
};

// What a block has stored for others and not yet released.
struct PendingStore {
  char* target;
  size_t bytes;
  std::array<char, 16> value;
  unsigned thread;
  int barriers;  // passed by the block before the store
};

struct Block {
  std::vector<char> shared;
  bool shared_used = false;
  // Two buffers per warp, used in turn: a lane may give its next words while others still read the last ones.
  std::vector<std::array<WarpWords, 2>> warp_words;
  std::vector<double> warp_speeds;
  double speed = 1;
  int barriers = 0;
  std::vector<PendingStore> pending;
  std::map<const void*, std::array<char, 16>> seen;  // loaded from others since the last acquire
};

std::mt19937_64 generator;
std::vector<Fiber> fibers;
std::vector<Block> running;  // the blocks that run at the same time
Fiber scheduler;
Fiber* current;
const std::function<void()>* body;
int64_t first_block = 0;
Fault injected = Fault::none;
std::string faulty_file;
int faulty_line;
constexpr int kAssertionFailed = 710;  // cudaErrorAssert

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "cuda_host: block %u: %s\n", block_index.x, message);
  std::abort();
}

Fault fault_at(const char* file, int line) {
  if (injected == Fault::none || line != faulty_line) return Fault::none;
  const std::string path = file, end = "/" + faulty_file;
  return path.size() >= end.size() && path.substr(path.size() - end.size()) == end ? injected : Fault::none;
}

Block& current_block() { return running[current->block]; }

void switch_fiber(Fiber& from, Fiber& to, bool last) {
  static StackRange scheduler_stack{};
  const bool starts = &from == &scheduler;
  if (starts && !scheduler_stack.bottom) scheduler_stack = thread_stack();
  announce_switch(last ? nullptr : &from.fake_stack,
                  starts ? StackRange{to.stack.get(), kStackBytes} : scheduler_stack);
  swapcontext(&from.context, &to.context);
  announce_arrival(from.fake_stack);
}

void yield(State state) {
  Fiber& self = *current;
  self.state = state;
  switch_fiber(self, scheduler, state == State::finished);
}

void thread_main() {
  announce_arrival(current->fake_stack);
  (*body)();
  yield(State::finished);
}

void start(Fiber& fiber, unsigned block, unsigned thread) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.state = State::runnable;
  fiber.exchanges = 0;
  fiber.block = block;
  fiber.thread = thread;
  fiber.fake_stack = nullptr;
  makecontext(&fiber.context, thread_main, 0);
}

// Whether the fibers [begin, end) are all in this state, at the same place of the program.
bool all_in(State state, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (fibers[i].state != state) return false;
    if (state == State::at_barrier && (fibers[i].file != fibers[begin].file || fibers[i].line != fibers[begin].line))
      fail("threads wait at different barriers");
  }
  return true;
}

void release(int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) fibers[i].state = State::runnable;
}

// Releases those fibers of a block that nobody keeps waiting; warps with a probability of their own, so that some run
// ahead of others. False if there is none.
bool release_waiting(Block& block, int64_t begin, int threads) {
  if (all_in(State::at_barrier, begin, begin + threads)) {
    ++block.barriers;
    release(begin, begin + threads);
    return true;
  }
  bool any = false;
  for (int64_t warp = begin; warp < begin + threads; warp += 32) {
    if (!all_in(State::at_exchange, warp, warp + 32)) continue;
    if (std::bernoulli_distribution(block.warp_speeds[(warp - begin) / 32])(generator)) release(warp, warp + 32);
    any = true;
  }
  return any;
}

void flush(Block& block, const std::function<bool(const PendingStore&)>& chosen) {
  std::vector<PendingStore> kept;
  for (const PendingStore& store : block.pending) {
    if (chosen(store))
      std::memcpy(store.target, store.value.data(), store.bytes);
    else
      kept.push_back(store);
  }
  block.pending.swap(kept);
}

// Lets every thread of the block that can run do so, in a drawn order. Returns whether any made progress.
bool run_block(unsigned index, int threads, std::vector<unsigned>& order) {
  const int64_t begin = int64_t(index) * threads;
  if (all_in(State::finished, begin, begin + threads)) return false;
  bool ahead = false, polls = false;
  std::shuffle(order.begin(), order.end(), generator);
  for (unsigned thread : order) {
    Fiber& fiber = fibers[begin + thread];
    if (fiber.state != State::runnable && fiber.state != State::polling) continue;
    thread_index.x = thread;
    current = &fiber;
    switch_fiber(scheduler, fiber, false);
    polls |= fiber.state == State::polling;
    ahead |= fiber.state != State::polling;
  }
  ahead |= release_waiting(running[index], begin, threads);
  if (all_in(State::finished, begin, begin + threads))
    flush(running[index], [](const PendingStore&) { return true; });
  else if (!ahead && !polls)
    fail("a barrier that only some threads reach");
  return ahead;
}

// What happens when a block has waited too long (give_up() in persistent/flags.h), for the first thread that polls.
int give_up(int64_t threads) {
  for (int64_t i = 0; i < threads; ++i) {
    const Fiber& fiber = fibers[i];
    if (fiber.state != State::polling) continue;
    std::fprintf(
        stderr,
        "pdb_ext: persistent launch, layer %d, step:%d: persistent_kernel, %s: block: [%u,0,0], thread: [%u,0,0] "
        "Assertion `a neighbouring tile's flag came within 2 seconds` failed.\n",
        fiber.waiting.layer, fiber.waiting.step, fiber.waiting.backward ? "backward" : "forward", fiber.block,
        fiber.thread);
    break;
  }
  return running.clear(), kAssertionFailed;  // also drops stores that were not released
}

// Runs blocks [first, first + count) of the grid at the same time. Returns 0, or an error.
int run_blocks(unsigned first, unsigned count, int threads, size_t shared_bytes) {
  std::vector<unsigned> order(threads), blocks(count);
  std::iota(order.begin(), order.end(), 0u);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (fibers.size() < size_t(count) * threads) fibers = std::vector<Fiber>(size_t(count) * threads);
  running.assign(count, Block{});
  std::uniform_real_distribution<> speed(0.1, 1);
  for (unsigned b = 0; b < count; ++b) {
    running[b].shared.assign(shared_bytes, '\xFF');
    running[b].warp_words.resize(threads / 32);
    if (count > 1) running[b].speed = speed(generator);
    for (int warp = 0; warp < threads / 32; ++warp) running[b].warp_speeds.push_back(speed(generator));
    for (int i = 0; i < threads; ++i) start(fibers[int64_t(b) * threads + i], b, i);
  }
  for (bool ahead = true; !all_in(State::finished, 0, int64_t(count) * threads);) {
    const bool everyone = !ahead;  // after a round without progress nobody is passed over
    ahead = false;
    std::shuffle(blocks.begin(), blocks.end(), generator);
    for (unsigned b : blocks) {
      block_index.x = first + b;
      if (everyone || std::bernoulli_distribution(running[b].speed)(generator)) ahead |= run_block(b, threads, order);
    }
    if (everyone && !ahead && !all_in(State::finished, 0, int64_t(count) * threads))
      return give_up(int64_t(count) * threads);
  }
  return 0;
}

void start_grid(int64_t blocks, int threads, const std::function<void()>& thread_body) {
  if (blocks > INT_MAX || threads > 1024 || threads % 32) fail("a grid that no GPU takes");
  body = &thread_body;
  block_dim.x = static_cast<unsigned>(threads);
  grid_dim.x = static_cast<unsigned>(blocks);
}

}  // namespace

int64_t resident_blocks = 0;
int cooperative_launches = 0;

void barrier(const char* file, int line) {
  if (fault_at(file, line) == Fault::missing) return;
  current->file = file;
  current->line = line;
  yield(State::at_barrier);
}

const WarpWords& exchange(const uint32_t (&words)[6]) {
  Fiber& self = *current;
  WarpWords& all = current_block().warp_words[self.thread / 32][self.exchanges++ % 2];
  std::copy_n(words, 6, all[self.thread % 32].begin());
  yield(State::at_exchange);
  return all;
}

void* shared_memory(size_t bytes) {
  Block& block = current_block();
  if (!block.shared_used) {
    block.shared_used = true;
    std::vector<char>(bytes, '\xFF').swap(block.shared);
  }
  if (block.shared.size() != bytes) fail("a kernel with two kinds of shared storage");
  return block.shared.data();
}

void* dynamic_shared_memory() { return current_block().shared.data(); }

void store_global(void* target, const void* value, size_t bytes) {
  PendingStore store{static_cast<char*>(target), bytes, {}, current->thread, current_block().barriers};
  std::memcpy(store.value.data(), value, bytes);
  current_block().pending.push_back(store);
}

void load_global(const void* source, void* value, size_t bytes) {
  const auto [at, first] = current_block().seen.try_emplace(source);
  if (first) std::memcpy(at->second.data(), source, bytes);
  std::memcpy(value, at->second.data(), bytes);
}

void publish_flag(uint32_t* flag, uint32_t value, const char* file, int line) {
  const Fault fault = fault_at(file, line);
  if (fault == Fault::missing) return;
  Block& block = current_block();
  if (fault == Fault::none)
    flush(block, [&](const PendingStore& store) {
      return store.thread == current->thread || store.barriers < block.barriers;
    });
  *flag = value;
}

void await_flag(const uint32_t* flag, uint32_t value, WaitingFor waiting, const char* file, int line) {
  const Fault fault = fault_at(file, line);
  if (fault == Fault::missing) return;
  current->waiting = waiting;
  while (*static_cast<const volatile uint32_t*>(flag) < value) yield(State::polling);
  if (fault == Fault::none) current_block().seen.clear();
}

void run_grid(int64_t blocks, int threads, const std::function<void()>& thread_body) {
  start_grid(blocks, threads, thread_body);
  const int64_t first = first_block < 0 ? blocks + first_block : first_block;
  for (int64_t block = first; block < blocks; ++block) run_blocks(static_cast<unsigned>(block), 1, threads, 0);
}

int run_resident(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& thread_body) {
  if (blocks > resident_blocks) fail("a cooperative launch of more blocks than are resident");
  ++cooperative_launches;
  start_grid(blocks, threads, thread_body);
  return run_blocks(0, grid_dim.x, threads, shared_bytes);
}

void run_blocks_from(int64_t block) { first_block = block; }
void set_seed(uint64_t seed) { generator.seed(seed); }

void inject(Fault fault, const char* file, int line) {
  injected = fault;
  faulty_file = file ? file : "";
  faulty_line = line;
}

}  // namespace pdb::cuda::host
