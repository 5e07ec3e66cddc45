// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: an optimiser each rank of which keeps a share of the states.
// unit_scaling: optional
#pragma once

#include <any>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/distributed/byte_gather.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gathered_sizes.hpp"
#include "unit_scaling/distributed/message_header.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

namespace detail {

/// The bytes of an array that is read.
template <class T> void add_bytes(const Array<T>& array, ByteRow<const std::byte>& row) {
  row.add(std::as_bytes(array.span()));
}
inline void add_bytes(const EncodedArray& array, ByteRow<const std::byte>& row) {
  row.add(std::as_bytes(array.codes()));
  row.add(std::as_bytes(array.scale_codes()));
}
/// Those of one that is written to.
template <class T> void add_bytes(Array<T>& array, ByteRow<std::byte>& row) {
  row.add(std::as_writable_bytes(array.mutable_span()));
}
inline void add_bytes(EncodedArray& array, ByteRow<std::byte>& row) {
  row.add(std::as_writable_bytes(array.mutable_codes()));
  row.add(std::as_writable_bytes(array.mutable_scale_codes()));
}

/// The bytes of all arrays that an optimiser keeps, in the order in which it shows them.
template <class Byte, class Optimiser> [[nodiscard]] ByteRow<Byte> bytes_of(Optimiser& optimiser) {
  ByteRow<Byte> row;
  optimiser.for_each_state([&]<class T>(const std::string& /*name*/, T& state) {
    if constexpr (!std::is_arithmetic_v<T>) {
      using State = std::conditional_t<std::is_const_v<Byte>, const T, T>;
      add_bytes(static_cast<State&>(state), row);
    }
  });
  return row;
}

/// Gives `to` those states of `from` that it has as well. Arrays are shared until one is written
/// to.
template <class Optimiser> void copy_states(Optimiser& from, Optimiser& to) {
  std::map<std::string, std::any> states;
  from.for_each_state([&](const std::string& name, const auto& state) { states[name] = state; });
  to.for_each_state([&]<class T>(const std::string& name, T& state) {
    const auto found = states.find(name);
    if (found != states.end()) state = std::any_cast<const T&>(found->second);
  });
}

}  // namespace detail

/// An optimiser of which each rank keeps the states of some parameters, and moves these:
///
///     const distributed::ParameterShares shares(parameters, ranks.size());
///     distributed::GradientExchange exchange(ranks, parameters, {.shares = shares});
///     distributed::ShardedOptimiser<optim::AdamW> adam(ranks, shares, parameters);
///     for (each step) {
///       …
///       exchange.with_sum(tape, [&](const auto& sum) { adam.step(sum, rate); });
///     }
///     adam.save([&] { checkpoints.save(step, training); });
///
/// After a step each rank has the weights of all. They have the bits that `Kind` gives them on one
/// rank with the same gradients, whatever its options. The gradients may be those of an exchange
/// with or without shares, or any that are the same on all ranks. A step that one rank refuses all
/// refuse.
///
/// Each rank sends its weights to all others, on average (N − 1) / N times the bytes of all
/// weights. An exchange with the shares sends less than one without: see GradientExchange.
///
/// A checkpoint has all states, in the bytes that it has without ranks. So a training goes on from
/// it on any number of ranks, sharded or not.
/// @tparam Kind the optimiser: Sgd, Adam, AdamW, Lamb, or one that passes over parameters that are
///         kept elsewhere (see optim::ParameterGroup).
/// @see Rajbhandari et al. 2019, arXiv:1910.02054: stage 1 of ZeRO.
template <optim::Optimiser Kind> class ShardedOptimiser {
 public:
  using Options = typename Kind::Options;

  /// @param ranks must outlive this object.
  /// @param shares of at least the parameters of the groups; the same on all ranks.
  /// @throws DomainError as `Kind`; for shares of another number of ranks, or without one of the
  ///         parameters; for a group with `is_kept_elsewhere`, as the shares say where that is.
  ShardedOptimiser(Communicator& ranks, const ParameterShares& shares,
                   const optim::ParameterGroups& groups)
      : ShardedOptimiser(std::nullopt, ranks, shares, groups) {}
  ShardedOptimiser(Communicator& ranks, const ParameterShares& shares,
                   const optim::ParameterGroups& groups, const Options& options)
      : ShardedOptimiser(std::optional(options), ranks, shares, groups) {}

  /// Moves the parameters of this rank's share, and then gets those of the others. All ranks call
  /// it.
  /// @throws ShapeError, DomainError as `Kind`, on all ranks if gradients are the same on all.
  ///         Nothing is changed then. CommunicationError if a rank has failed, if a message is not
  ///         the one that is due, or if ranks keep a parameter in other formats or step with other
  ///         learning rates, loss scales or numbers of steps.
  template <optim::GradientSource Gradients>
  void step(const Gradients& gradients, double learning_rate, double loss_scale = 1) {
    share_.step(gradients, learning_rate, loss_scale);
    // Weights that were moved otherwise would be taken for those of this step.
    std::uint64_t told = unit_scaling::detail::empty_hash;
    for (const std::uint64_t each : {share_.steps(), std::bit_cast<std::uint64_t>(learning_rate),
                                     std::bit_cast<std::uint64_t>(loss_scale)}) {
      told = unit_scaling::detail::next_hash(told, each);
    }
    gather_weights(told);
  }

  /// Of all parameters.
  [[nodiscard]] const std::vector<optim::ParameterSetting>& settings() const& {
    return share_.settings();
  }
  [[nodiscard]] std::vector<optim::ParameterSetting> settings() const&& {
    return share_.settings();
  }
  [[nodiscard]] std::uint64_t steps() const { return share_.steps(); }
  /// The same on all ranks; see `Kind`.
  [[nodiscard]] std::optional<double> last_gradient_norm() const {
    return share_.last_gradient_norm();
  }

  /// Calls `write()` on rank 0, where all states are meanwhile. All ranks call it.
  /// @throws CommunicationError; and what `write` throws, on rank 0.
  template <class Write> void save(const Write& write) {
    if (ranks_->size() == 1) return write();
    const bool is_root = ranks_->rank() == 0;
    const Whole scope(*this, is_root);
    const auto own = detail::bytes_of<const std::byte>(share_);
    const auto sizes = detail::gathered_sizes(*ranks_, own.size());
    // One rank after the other, so that rank 0 has one share twice.
    for (std::size_t from = 1; from < ranks_->size(); ++from) {
      std::vector<std::size_t> sizes_of_round(ranks_->size());
      sizes_of_round[from] = sizes[from];
      std::vector<ByteRow<std::byte>> others(ranks_->size());
      std::optional<Kind> share;
      if (is_root) {
        share = made(groups_of(from));
        others[from] = detail::bytes_of<std::byte>(*share);
      }
      states_.gather(sizes_of_round, ranks_->rank() == from ? own : ByteRow<const std::byte>(),
                     std::move(others),
                     /*root=*/0);
      if (is_root) detail::copy_states(*share, *whole_);
    }
    // Last, for the steps of the other shares are those of new ones.
    if (is_root) {
      detail::copy_states(share_, *whole_);
      write();
    }
  }

  /// Calls `read()`, which may write to all states, of which this rank then keeps its share. Each
  /// rank calls it, and reads the same; it has room for all states meanwhile.
  /// @throws what `read` throws. The states are then as before.
  template <class Read> void load(const Read& read) {
    if (ranks_->size() == 1) return read();
    const Whole scope(*this, true);
    detail::copy_states(share_, *whole_);
    read();
    detail::copy_states(*whole_, share_);
  }

  /// Shows what `Kind` shows on one rank, in `save` and `load`.
  /// @throws DomainError elsewhere, unless there is one rank: this one has no more than a share.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    if (whole_) return whole_->for_each_state(visit);
    require(ranks_->size() == 1, name,
            "expected save or load round what asks for all states, as "
            "rank ",
            ranks_->rank(), " keeps a share of them");
    share_.for_each_state(visit);
  }
  /// Shows what this rank keeps.
  template <class Visitor> void for_each_own_state(const Visitor& visit) {
    share_.for_each_state(visit);
  }

 private:
  static constexpr const char* name = "ShardedOptimiser";

  /// @param options those that `Kind` has by itself, if empty.
  ShardedOptimiser(std::optional<Options> options, Communicator& ranks, ParameterShares shares,
                   optim::ParameterGroups groups)
      : ranks_(&ranks),
        shares_(std::move(shares)),
        groups_(std::move(groups)),
        options_(std::move(options)),
        share_(made(groups_of(ranks.rank()))),
        weights_(ranks, name, MessageKind::weights),
        states_(ranks, name, MessageKind::states) {
    require(shares_.ranks() == ranks.size(), name, "expected shares of ", ranks.size(),
            " ranks, got those of ", shares_.ranks());
  }

  /// As long as this is, all states are here.
  class Whole {
   public:
    Whole(ShardedOptimiser& owner, bool is_here) : owner_(&owner) {
      if (is_here) owner.whole_ = owner.made(owner.groups_);
    }
    Whole(const Whole&) = delete;
    Whole& operator=(const Whole&) = delete;
    ~Whole() { owner_->whole_.reset(); }

   private:
    ShardedOptimiser* owner_;
  };

  [[nodiscard]] Kind made(const optim::ParameterGroups& groups) const {
    return options_ ? Kind(groups, *options_) : Kind(groups);
  }

  /// The groups, each of one parameter so that their order stays, for an optimiser that keeps the
  /// share of a rank.
  [[nodiscard]] optim::ParameterGroups groups_of(std::size_t rank) const {
    std::vector<optim::ParameterGroup> result;
    for (const optim::ParameterGroup& group : groups_.groups()) {
      require(!group.is_kept_elsewhere, name,
              "expected groups whose owners the shares say, got one with is_kept_elsewhere");
      // For `Kind` to check its numbers.
      if (group.parameters.empty()) result.push_back(group);
      for (Parameter* const parameter : group.parameters) {
        // Null is for `Kind` to refuse.
        const bool is_elsewhere = parameter != nullptr && shares_.owner(*parameter) != rank;
        result.push_back({.parameters = {parameter},
                          .learning_rate_factor = group.learning_rate_factor,
                          .weight_decay = group.weight_decay,
                          .is_kept_elsewhere = is_elsewhere});
      }
    }
    return result;
  }

  /// @param told a hash of what the step was told, which must be the same on all ranks.
  void gather_weights(std::uint64_t told) {
    if (ranks_->size() == 1) return;
    std::vector<std::size_t> sizes(ranks_->size());
    ByteRow<const std::byte> own;
    std::vector<ByteRow<std::byte>> others(ranks_->size());
    for (const optim::ParameterSetting& setting : share_.settings()) {
      Parameter& parameter = *setting.parameter;
      const std::size_t owner = shares_.owner(parameter);
      sizes[owner] += parameter.bytes();
      const auto add = [&](auto& array) {
        if (setting.is_kept_elsewhere) {
          detail::add_bytes(array, others[owner]);
        } else {
          detail::add_bytes(std::as_const(array), own);
        }
      };
      if (parameter.is_encoded()) {
        add(parameter.encoded->codes);
      } else {
        add(parameter.value);
      }
    }
    weights_.gather(sizes, std::move(own), std::move(others), /*root=*/std::nullopt, told);
  }

  Communicator* ranks_;
  ParameterShares shares_;
  optim::ParameterGroups groups_;
  std::optional<Options> options_;
  Kind share_;
  std::optional<Kind> whole_;  ///< in `save` and `load`
  ByteGather weights_;
  ByteGather states_;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
