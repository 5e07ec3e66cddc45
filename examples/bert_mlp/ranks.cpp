// SPDX-License-Identifier: MIT
#include "ranks.hpp"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/distributed/agreement.hpp"
#include "unit_scaling/train/interruption.hpp"

namespace bert_mlp {

std::string Ranks::failure_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::length_error&) {
    throw;
  } catch (const std::invalid_argument& error) {
    return std::string("2") + error.what();
  } catch (const std::exception& error) {
    return std::string("1") + error.what();
  }
  return {};
}

void Ranks::together(const std::function<void()>& body) const {
  if (size() == 1) return body();
  const std::vector<std::string> failures =
      us::distributed::gather_texts(*communicator_, failure_of(body));
  const auto first = std::find_if(failures.begin(), failures.end(),
                                  [](const std::string& each) { return !each.empty(); });
  if (first == failures.end()) return;
  const bool is_of_all = std::all_of(failures.begin(), failures.end(),
                                     [&](const std::string& each) { return each == *first; });
  const std::string rank =
      "rank " + std::to_string(first - failures.begin()) + " of " + std::to_string(size()) + ": ";
  throw CommonError((is_of_all ? "" : rank) + first->substr(1), first->front() - '0');
}

void Ranks::on_first(const std::function<void()>& body) const {
  if (size() == 1) return body();
  const std::string failure = first_text(is_first() ? failure_of(body) : "");
  if (!failure.empty()) throw CommonError(failure.substr(1), failure.front() - '0');
}

void Ranks::alike(const std::function<void()>& body) const {
  if (size() == 1) return body();
  try {
    body();
  } catch (const std::invalid_argument& error) {
    throw CommonError(error.what(), 2);
  }
}

void Ranks::require_agreement(const us::train::Fingerprint& told,
                              const std::vector<us::Parameter*>& parameters) const {
  if (size() == 1) return;
  alike([&] { us::distributed::require_agreement(*communicator_, told, parameters); });
}

std::vector<double> Ranks::gather(std::span<const double> numbers) const {
  std::vector<double> all(numbers.size() * size());
  communicator_->all_gather(std::as_bytes(numbers),
                            {std::as_writable_bytes(std::span(all)),
                             std::vector<std::size_t>(size(), numbers.size_bytes())});
  return all;
}

std::string Ranks::first_text(const std::string& text) const {
  if (size() == 1) return text;
  const std::vector<std::string> texts = us::distributed::gather_texts(*communicator_, text);
  const auto first = std::find_if(texts.begin(), texts.end(),
                                  [](const std::string& each) { return !each.empty(); });
  return first == texts.end() ? "" : *first;
}

int Ranks::interruption() const {
  const double own = us::train::interruption();
  const std::vector<double> all = gather(std::span(&own, 1));
  const auto first = std::find_if(all.begin(), all.end(), [](double each) { return each != 0; });
  return first == all.end() ? 0 : static_cast<int>(*first);
}

}  // namespace bert_mlp
