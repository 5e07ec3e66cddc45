// SPDX-License-Identifier: MIT
/// @file
/// Layer train: what must be the same for a training that goes on to be the one that was stopped.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/train/token_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// What a training was told, as texts by key. Two trainings with equal fingerprints, of one program
/// on one kind of machine, compute the same bits, if the program adds all that it depends on:
///
///     train::Fingerprint fingerprint;
///     fingerprint.add("rate", 0.25).add("steps", 200).add("seed", 1).add_data("text", text);
///
/// Keys and values may be any bytes. Fingerprints are equal if they have the same values, in
/// whatever order they were added.
class Fingerprint {
 public:
  /// @throws DomainError if the key is empty, or was added before.
  Fingerprint& add(std::string_view key, std::string_view value) {
    return add(key, std::string(value), /*is_hash=*/false);
  }

  /// A number, as the shortest decimals that tell it from every other of its type; a bool as "true"
  /// or "false".
  /// @throws DomainError as above.
  template <class Number>
  requires std::is_arithmetic_v<Number> Fingerprint& add(std::string_view key, Number value) {
    return add(key, text_of(value), /*is_hash=*/false);
  }

  /// Data that is too long to be kept: a hash of it in 64 bits, FNV-1a over the ids of a corpus, in
  /// their order. What the ids stand for is not part of it: "aab" and "xxy" are the same ids of a
  /// `TextCorpus`. Where texts may differ in that alone, add that too.
  /// @throws DomainError as above, and what reading the corpus throws.
  /// @see `text_hash`
  Fingerprint& add_data(std::string_view key, const TokenCorpus& corpus) {
    std::uint64_t hash = unit_scaling::detail::empty_hash;
    std::array<std::int32_t, 4096> ids{};
    for (const TokenText& part : {corpus.training(), corpus.validation()}) {
      for (std::size_t first = 0; first < part.size(); first += ids.size()) {
        const auto some = std::span(ids).first(std::min(ids.size(), part.size() - first));
        part.copy(first, some);
        for (const std::int32_t id : some) {
          hash = unit_scaling::detail::next_hash(hash, static_cast<std::uint64_t>(id));
        }
      }
    }
    return add(key, hexadecimal(hash), /*is_hash=*/true);
  }
  /// As above, of bytes.
  Fingerprint& add_data(std::string_view key, std::string_view text) {
    return add(key, hexadecimal(text_hash(text)), /*is_hash=*/true);
  }

  /// The value of a key; empty if there is none.
  [[nodiscard]] std::optional<std::string> value(std::string_view key) const {
    const auto found = find(key);
    return found == entries_.end() ? std::nullopt : std::optional(found->value);
  }

  /// "KEY=VALUE", with spaces between, in the order in which they were added. What is not printable
  /// ASCII is written as "%" and two hexadecimal digits, and so are "%", and "=" in a key.
  [[nodiscard]] std::string to_string() const {
    std::string text;
    for (const Entry& entry : entries_) {
      if (!text.empty()) text += ' ';
      text += escaped(entry.key, /*is_key=*/true) + '=' + escaped(entry.value, /*is_key=*/false);
    }
    return text;
  }

  /// The inverse of `to_string`.
  /// @throws std::invalid_argument for any text that it does not return.
  [[nodiscard]] static Fingerprint parse(std::string_view text) {
    Fingerprint fingerprint;
    std::vector<std::string_view> keys;
    for (std::string_view rest = text; !rest.empty();) {
      const std::string_view word = rest.substr(0, rest.find(' '));
      rest.remove_prefix(std::min(rest.size(), word.size() + 1));
      const std::size_t equals = word.find('=');
      if (equals == 0 || equals == std::string_view::npos) refuse(text);
      fingerprint.entries_.push_back({.key = unescaped(word.substr(0, equals)),
                                      .value = unescaped(word.substr(equals + 1)),
                                      .is_hash = false});
      keys.push_back(word.substr(0, equals));
    }
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) refuse(text);
    if (fingerprint.to_string() != text) refuse(text);
    return fingerprint;
  }

  /// Where two fingerprints that are compared come from, as a text says it.
  struct Places {
    std::string_view left = "there";
    std::string_view right = "here";
  };

  /// What two fingerprints differ in, by key: "rate is 0.25 there and 0.5 here, the text is
  /// another". Empty if they are equal. Of many differences the first are named.
  [[nodiscard]] static std::string difference(const Fingerprint& there, const Fingerprint& here) {
    return difference(there, here, Places{});
  }
  /// The same in other words for "there" and "here".
  [[nodiscard]] static std::string difference(const Fingerprint& there, const Fingerprint& here,
                                              const Places& places) {
    using Sides = std::pair<const Entry*, const Entry*>;
    std::map<std::string_view, Sides> sides_of;
    for (const Entry& entry : there.entries_) sides_of[entry.key].first = &entry;
    for (const Entry& entry : here.entries_) sides_of[entry.key].second = &entry;
    std::string text;
    for (const auto& [key, sides] : sides_of) {
      const auto [left, right] = sides;
      const bool is_on_both = left != nullptr && right != nullptr;
      if (is_on_both && left->value == right->value) continue;
      constexpr std::size_t long_enough = 1000;  // what is there may be anything
      if (text.size() > long_enough) return text + ", and more";
      text += text.empty() ? "" : ", ";
      if (is_on_both && (left->is_hash || right->is_hash)) {
        text += "the " + printable(key) + " is another";
      } else {
        const auto shown = [](const Entry* entry) {
          if (entry == nullptr) return std::string("not set");
          return entry->value.empty() ? std::string("empty") : printable(entry->value);
        };
        std::string there_shown = shown(left);
        std::string here_shown = shown(right);
        std::string where;
        if (is_on_both && left->value.size() == right->value.size() && there_shown == here_shown) {
          const std::size_t same = equal_bytes(left->value, right->value);
          there_shown = "…" + printable(std::string_view(left->value).substr(same));
          here_shown = "…" + printable(std::string_view(right->value).substr(same));
          where = ", after " + std::to_string(same) + " equal bytes";
        }
        text += printable(key) + " is " + there_shown + ' ';
        text += places.left;
        text += " and " + here_shown + ' ';
        text += places.right;
        text += where;
      }
    }
    return text;
  }

  [[nodiscard]] friend bool operator==(const Fingerprint& a, const Fingerprint& b) {
    return a.entries_.size() == b.entries_.size() && difference(a, b).empty();
  }

 private:
  struct Entry {
    std::string key;
    std::string value;
    bool is_hash;  ///< of data, so that nobody reads it; never of one that was parsed
  };

  [[nodiscard]] std::vector<Entry>::const_iterator find(std::string_view key) const {
    return std::find_if(entries_.begin(), entries_.end(),
                        [&](const Entry& entry) { return entry.key == key; });
  }

  Fingerprint& add(std::string_view key, std::string value, bool is_hash) {
    require(!key.empty(), "Fingerprint", "expected a key of at least one byte, got none");
    require(find(key) == entries_.end(), "Fingerprint", "expected each key once, got ",
            in_quotes(key), " twice");
    entries_.push_back({.key = std::string(key), .value = std::move(value), .is_hash = is_hash});
    return *this;
  }

  template <class Number> [[nodiscard]] static std::string text_of(Number value) {
    if constexpr (std::is_same_v<Number, bool>) {
      return value ? "true" : "false";
    } else {
      std::array<char, 64> digits{};
      return {digits.data(),
              std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr};
    }
  }

  /// With how many bytes two texts of one size begin alike; the last of them ends a character.
  [[nodiscard]] static std::size_t equal_bytes(std::string_view a, std::string_view b) {
    auto same = static_cast<std::size_t>(
        std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
    for (int i = 0; i < 3 && same > 0 && (static_cast<unsigned char>(a[same]) & 0xC0U) == 0x80;
         ++i) {
      --same;
    }
    return same;
  }

  [[nodiscard]] static std::string hexadecimal(std::uint64_t number) {
    std::array<char, 16> digits{};
    return {digits.data(),
            std::to_chars(digits.data(), digits.data() + digits.size(), number, 16).ptr};
  }

  [[nodiscard]] static std::string escaped(std::string_view text, bool is_key) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string result;
    for (const char each : text) {
      const auto byte = static_cast<unsigned char>(each);
      if (byte > 0x20 && byte < 0x7f && each != '%' && !(is_key && each == '=')) {
        result += each;
      } else {
        result += {'%', digits[byte >> 4U], digits[byte & 15U]};
      }
    }
    return result;
  }

  /// Of what is not well-formed, a text that is not escaped to the same.
  [[nodiscard]] static std::string unescaped(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
      unsigned byte = 0;
      const char* const digits = text.data() + i + 1;
      if (text[i] == '%' && i + 2 < text.size() &&
          std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
        result += static_cast<char>(byte);
        i += 2;
      } else {
        result += text[i];
      }
    }
    return result;
  }

  [[noreturn]] static void refuse(std::string_view text) {
    throw std::invalid_argument(
        "Fingerprint: expected words \"key=value\" of different keys, got " + in_quotes(text));
  }

  std::vector<Entry> entries_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
