// Results and checks. Three kinds of trouble, three tools: an expected event is an enum outcome
// with a counter, an operating failure is a Result<T>, a bug is a CHECK that stops the process.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace annulus {

/// An operating failure for a person to read: what is wrong, where, how to mend it.
struct Error {
  std::string message;
};

/// Either a T or an Error; a small stand-in for std::expected (C++23).
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}              // NOLINT: implicit by design
  Result(Error error) : error_(std::move(error.message)) {}  // NOLINT: implicit by design

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  Error error() const { return Error{error_}; }

 private:
  std::optional<T> value_;
  std::string error_;
};

/// A Result without a value.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : failed_(true), error_(std::move(error.message)) {}  // NOLINT: implicit
  bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  Error error() const { return Error{error_}; }

 private:
  bool failed_ = false;
  std::string error_;
};

/// Prints the condition and its place on stderr and aborts.
[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace annulus

/// A broken invariant is a bug: stop, in every build.
#define CHECK(condition)                        \
  (__builtin_expect(!!(condition), 1) ? (void)0 \
                                      : ::annulus::check_failed(#condition, __FILE__, __LINE__))

/// As CHECK, for invariants too costly for release builds.
#ifdef NDEBUG
#define DCHECK(condition) ((void)sizeof(!!(condition)))
#else
#define DCHECK(condition) CHECK(condition)
#endif
