// SPDX-License-Identifier: MIT
/// @file
/// Layer train: what batches are made of: a text in ids, with a held-out tail.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

class TokenText;

/// A text in ids, wherever they are: in memory, or in a file that may be larger than memory. The
/// last tenth is held out for validation.
///
/// This is the one interface that batches know. A corpus of your own says how many ids it has and
/// copies some of them:
///
///     class Zeros final : public TokenCorpus {
///      public:
///       [[nodiscard]] std::size_t vocabulary_size() const override { return 2; }
///       [[nodiscard]] std::int32_t mask_id() const override { return 1; }
///
///      private:
///       [[nodiscard]] std::size_t size() const override { return 1000; }
///       void read(std::size_t /*first*/, std::span<std::int32_t> to) const override {
///         std::ranges::fill(to, 0);
///       }
///     };
///
/// Its const members may be called by several threads at once.
class TokenCorpus {
 public:
  virtual ~TokenCorpus() = default;

  /// How many ids there are, from 0 on, the mask's included: a model has an embedding for each.
  [[nodiscard]] virtual std::size_t vocabulary_size() const = 0;
  /// The id that stands for a masked position.
  /// @throws DomainError if there is none.
  [[nodiscard]] virtual std::int32_t mask_id() const = 0;

  /// All but the last tenth, which is rounded down.
  [[nodiscard]] TokenText training() const&;
  TokenText training() const&& = delete;
  /// The last tenth.
  [[nodiscard]] TokenText validation() const&;
  TokenText validation() const&& = delete;

 protected:
  TokenCorpus() = default;
  TokenCorpus(const TokenCorpus&) = default;
  TokenCorpus(TokenCorpus&&) = default;
  TokenCorpus& operator=(const TokenCorpus&) = default;
  TokenCorpus& operator=(TokenCorpus&&) = default;

  /// For constructors: that training and validation have a window each.
  /// @param units what the text consists of: "bytes".
  /// @param files where it is; none: in memory.
  /// @throws std::invalid_argument unless both have at least `shortest` of `size` ids.
  static void require_windows(std::size_t size, std::string_view units, std::size_t shortest,
                              std::span<const std::filesystem::path> files = {}) {
    const std::size_t held_out = held_out_of(size);
    if (size - held_out >= shortest && held_out >= shortest) return;
    std::string text = "text too short: " + std::to_string(size) + " " + std::string(units);
    if (!files.empty()) text += " in " + in_quotes(files[0].string(), /*longest=*/4096);
    if (files.size() > 1) text += " and " + std::to_string(files.size() - 1) + " more";
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
    const std::size_t needed = shortest > most / 10 ? most : 10 * shortest;
    throw std::invalid_argument(text + "; with a tenth of it held out, a window of " +
                                std::to_string(shortest) + " needs at least " +
                                std::to_string(needed));
  }

 private:
  friend class TokenText;

  /// How many ids the whole text has.
  [[nodiscard]] virtual std::size_t size() const = 0;
  /// Copies the ids from `first` on, which are there, to `to`.
  virtual void read(std::size_t first, std::span<std::int32_t> to) const = 0;

  [[nodiscard]] static std::size_t held_out_of(std::size_t size) { return size / 10; }
};

/// A part of a corpus: a range of ids, each of which is read when it is asked for. The corpus must
/// outlive it and stay where it is. What reading throws, a corpus says.
class TokenText : public std::ranges::view_base {
 public:
  /// Reads one id; `copy` reads many in less time.
  class Iterator {
   public:
    using iterator_concept = std::random_access_iterator_tag;
    using iterator_category = std::input_iterator_tag;  // as `*` gives a value
    using value_type = std::int32_t;
    using difference_type = std::ptrdiff_t;

    Iterator() = default;

    std::int32_t operator*() const {
      std::int32_t id = 0;
      corpus_->read(position_, {&id, 1});
      return id;
    }
    std::int32_t operator[](difference_type n) const { return *(*this + n); }

    Iterator& operator+=(difference_type n) {
      position_ += static_cast<std::size_t>(n);
      return *this;
    }
    Iterator& operator-=(difference_type n) { return *this += -n; }
    Iterator& operator++() { return *this += 1; }
    Iterator& operator--() { return *this -= 1; }
    Iterator operator++(int) { return ++*this - 1; }
    Iterator operator--(int) { return --*this + 1; }
    friend Iterator operator+(Iterator i, difference_type n) { return i += n; }
    friend Iterator operator+(difference_type n, Iterator i) { return i += n; }
    friend Iterator operator-(Iterator i, difference_type n) { return i -= n; }
    friend difference_type operator-(const Iterator& a, const Iterator& b) {
      return static_cast<difference_type>(a.position_ - b.position_);
    }
    friend bool operator==(const Iterator& a, const Iterator& b) {
      return a.position_ == b.position_;
    }
    friend auto operator<=>(const Iterator& a, const Iterator& b) {
      return a.position_ <=> b.position_;
    }

   private:
    friend class TokenText;
    Iterator(const TokenCorpus* corpus, std::size_t position)
        : corpus_(corpus), position_(position) {}

    const TokenCorpus* corpus_ = nullptr;
    std::size_t position_ = 0;
  };

  TokenText() = default;

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] Iterator begin() const { return {corpus_, first_}; }
  [[nodiscard]] Iterator end() const { return {corpus_, first_ + size_}; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  /// For positions that are there.
  [[nodiscard]] std::int32_t operator[](std::size_t position) const {
    return *Iterator(corpus_, first_ + position);
  }
  [[nodiscard]] std::int32_t front() const { return (*this)[0]; }
  [[nodiscard]] std::int32_t back() const { return (*this)[size_ - 1]; }

  /// Copies the ids from `first` on to `to`, as many as it has room for.
  /// @throws DomainError unless there are so many.
  void copy(std::size_t first, std::span<std::int32_t> to) const {
    require(first <= size_ && to.size() <= size_ - first, "TokenText::copy", "expected some of ",
            size_, " ids, got ", to.size(), " from ", first);
    if (!to.empty()) corpus_->read(first_ + first, to);
  }

 private:
  friend class TokenCorpus;
  TokenText(const TokenCorpus& corpus, std::size_t first, std::size_t size)
      : corpus_(&corpus), first_(first), size_(size) {}

  const TokenCorpus* corpus_ = nullptr;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

inline TokenText TokenCorpus::training() const& { return {*this, 0, size() - held_out_of(size())}; }
inline TokenText TokenCorpus::validation() const& {
  const std::size_t held_out = held_out_of(size());
  return {*this, size() - held_out, held_out};
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
