// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/op_traits.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <string_view>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/scaled.hpp"
#include "unit_scaling/scaling/homogeneity.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/scaling/scales.hpp"

namespace op_traits_test {

using unit_scaling::Array;
using unit_scaling::Homogeneity;
using unit_scaling::Scales;
using unit_scaling::Scaling;
using unit_scaling::ops::OpTraits;
using unit_scaling::ops::ScaledOp;

/// What every op has.
struct Basis {
  static constexpr std::string_view name = "basis";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
};

constexpr OpTraits says_nothing{.has_homogeneity = false, .has_item_counts = false};
constexpr OpTraits tells_homogeneity{.has_homogeneity = true, .has_item_counts = false};
constexpr OpTraits tells_item_counts{.has_homogeneity = false, .has_item_counts = true};

struct Plain : Basis {
  static constexpr OpTraits traits = says_nothing;
};
static_assert(ScaledOp<Plain>);

struct Answering : Basis {
  static constexpr OpTraits traits = tells_homogeneity;
  Homogeneity homogeneity(const Scales<1>& s) const;
};
static_assert(ScaledOp<Answering>);

// A template and overloads are found by their name as well.
struct Overloaded : Basis {
  static constexpr OpTraits traits = tells_item_counts;
  template <class T> void item_counts(const Array<T>& x) const;
  template <class T> void item_counts(const Array<T>& x, const Array<T>& y) const;
};
static_assert(ScaledOp<Overloaded>);
static_assert(ScaledOp<unit_scaling::ops::WithFactors<unit_scaling::ops::Linear, 3>>);

// No traits, under a misspelt name or of another type.
static_assert(!ScaledOp<Basis>);
struct MisspeltTraits : Basis {
  static constexpr OpTraits trait = says_nothing;
};
static_assert(!ScaledOp<MisspeltTraits>);
struct ChangeableTraits : Basis {
  static OpTraits traits;
};
static_assert(!ScaledOp<ChangeableTraits>);
struct OtherTraits {
  bool has_homogeneity = false, has_item_counts = false;
};
struct TraitsOfAnotherType : Basis {
  static constexpr OtherTraits traits = {};
};
static_assert(!ScaledOp<TraitsOfAnotherType>);

// A member under a misspelt name.
struct MisspeltHomogeneity : Basis {
  static constexpr OpTraits traits = tells_homogeneity;
  Homogeneity homogenity(const Scales<1>& s) const;
};
static_assert(!ScaledOp<MisspeltHomogeneity>);
struct MisspeltItemCounts : Basis {
  static constexpr OpTraits traits = tells_item_counts;
  template <class T> void item_count(const Array<T>& x) const;
};
static_assert(!ScaledOp<MisspeltItemCounts>);

// A member that the traits do not tell of.
struct SilentHomogeneity : Basis {
  static constexpr OpTraits traits = says_nothing;
  Homogeneity homogeneity(const Scales<1>& s) const;
};
static_assert(!ScaledOp<SilentHomogeneity>);
struct SilentGradientFactor : Basis {
  static constexpr OpTraits traits = says_nothing;
  double gradient_factor(const Scales<1>& s, std::size_t input, std::size_t output) const;
};
static_assert(!ScaledOp<SilentGradientFactor>);

// A trait beside the traits, where nobody would look for it.
struct TraitBesideTheTraits : Basis {
  static constexpr OpTraits traits = says_nothing;
  static constexpr bool is_loss = true;
};
static_assert(!ScaledOp<TraitBesideTheTraits>);

// Rules of another type.
struct RulesOfAnotherType : Basis {
  static constexpr OpTraits traits = says_nothing;
  unit_scaling::Rule scaling = {};
};
static_assert(!ScaledOp<RulesOfAnotherType>);
struct Ruled : Basis {
  static constexpr OpTraits traits = says_nothing;
  Scaling scaling = {};
};
static_assert(ScaledOp<Ruled>);

template <class Traits>
concept CanBeMisspelt = requires {
  Traits{.has_homogeneity = true, .has_item_counts = false, .matmul_operand = 2};
};
static_assert(!CanBeMisspelt<OpTraits>);

template <class Traits>
concept CanBeLeftOut = requires {
  Traits{.has_homogeneity = true};
}
|| requires { Traits{.has_item_counts = true}; }
|| requires { Traits{}; };
static_assert(!CanBeLeftOut<OpTraits>);

template <class Traits>
concept CanBeANumber = requires {
  Traits{.has_homogeneity = 1, .has_item_counts = false};
};
static_assert(!CanBeANumber<OpTraits>);

TEST(OpTraits, TellWhetherAnOpHasMatrixProducts) {
  EXPECT_FALSE(says_nothing.has_products);
  EXPECT_TRUE(unit_scaling::ops::Linear::traits.has_products);
}

}  // namespace op_traits_test
