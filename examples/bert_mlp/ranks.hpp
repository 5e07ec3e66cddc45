// SPDX-License-Identifier: MIT
// The processes that train together.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/train/fingerprint.hpp"

namespace bert_mlp {

namespace us = unit_scaling;

/// What all ranks throw together, so that the first can tell it and all end in order.
struct CommonError : std::runtime_error {
  CommonError(const std::string& text, int exit_code) : std::runtime_error(text), code(exit_code) {}
  int code;
};

/// The ranks as one of them sees them. Alone, there is one. What all of them must call together, in
/// the same order, throws us::distributed::CommunicationError if one does not.
class Ranks {
 public:
  /// @param communicator must outlive this object.
  explicit Ranks(us::distributed::Communicator& communicator) : communicator_(&communicator) {}

  [[nodiscard]] us::distributed::Communicator& communicator() const { return *communicator_; }
  [[nodiscard]] std::size_t rank() const { return communicator_->rank(); }
  [[nodiscard]] std::size_t size() const { return communicator_->size(); }
  /// The one that writes files and shows progress.
  [[nodiscard]] bool is_first() const { return rank() == 0; }

  // All ranks call these.

  /// Calls `body` on each rank. Alone, it throws what that throws; else all throw CommonError if
  /// one does, which names that rank unless the others throw the same. Memory that ends is no
  /// matter of all.
  void together(const std::function<void()>& body) const;
  /// Calls `body` on the first rank alone. What it throws, all throw, as above.
  void on_first(const std::function<void()>& body) const;

  /// Calls `body`, which either throws the same on all ranks or on none, so that nobody need be
  /// asked. Alone, it throws what that throws; else CommonError in place of what an argument is to
  /// blame for.
  void alike(const std::function<void()>& body) const;

  /// @throws CommonError that names what the ranks were told differently.
  void require_agreement(const us::train::Fingerprint& told,
                         const std::vector<us::Parameter*>& parameters = {}) const;

  /// The numbers of each rank, as many of each, by rank.
  [[nodiscard]] std::vector<double> gather(std::span<const double> numbers) const;

  /// Of the texts of all ranks the first that is not empty, by rank.
  [[nodiscard]] std::string first_text(const std::string& text) const;

  /// The signal that asked some rank to stop; 0 if none did.
  [[nodiscard]] int interruption() const;

 private:
  /// What is wrong on this rank after `body`: the exit code and the text; empty if nothing is.
  [[nodiscard]] static std::string failure_of(const std::function<void()>& body);

  us::distributed::Communicator* communicator_;
};

}  // namespace bert_mlp
