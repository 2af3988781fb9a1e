// Answers that are asked for once and do not change.
#pragma once

#include <map>
#include <mutex>
#include <optional>

namespace pdb::cuda {

// The answers to a question about each key, for any number of threads.
template <class Key, class Value>
class Answers {
 public:
  // ask() -> std::optional<Value>. A failure (nothing) is not remembered.
  template <class Ask>
  std::optional<Value> get(const Key& key, const Ask& ask) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = answers_.find(key);
    if (known != answers_.end()) return known->second;
    const std::optional<Value> answer = ask();
    if (answer) answers_.emplace(key, *answer);
    return answer;
  }

 private:
  std::mutex mutex_;
  std::map<Key, Value> answers_;
};

}  // namespace pdb::cuda
