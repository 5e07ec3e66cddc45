// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: a recipe of block scaling, in which tiles of an operand share a scale that is
/// found anew for each array: MXFP8, MXFP6 and MXFP4, the tiles of DeepSeek-V3, and NVFP4.
///
/// It compiles the products of all formats, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/formats/stochastic_rounding.hpp"
#include "unit_scaling/formats/tile_maxima_encoding.hpp"
#include "unit_scaling/recipes/by_role.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// In which form products read the operands of one role.
struct BlockScaledOperand {
  Format format = Format::of<float8_e4m3fn>();
  /// The extents of a tile whose elements share a scale: along what a product sums over, and
  /// across it. Where they differ, an operand has two forms, one for the products that sum over its
  /// columns and one for those that sum over its rows; so it takes twice the memory.
  std::size_t along = 32;
  std::size_t across = 1;
  /// nearest_even or stochastic, of the elements. Scales are never random.
  Rounding rounding = Rounding::nearest_even;

  friend bool operator==(const BlockScaledOperand&, const BlockScaledOperand&) = default;
};

/// What block scaling does with each operand of a matrix product.
struct BlockScalingOptions {
  ByRole<BlockScaledOperand> operands = {};
  /// How scales are stored, and so how they follow from the maxima of tiles: see `BlockScaling`.
  ScaleFormat scales = ScaleFormat::power_of_two;
  /// Of scales that are powers of two.
  ScaleRounding scale_rounding = ScaleRounding::floor;
  /// Of stochastic rounding.
  std::uint64_t seed = 0;

  friend bool operator==(const BlockScalingOptions&, const BlockScalingOptions&) = default;
};

/// Rounds every operand of matrix products to a narrow format under scales that tiles of elements
/// share. A scale follows from the largest magnitude of its tile, so the recipe keeps no state, but
/// reads each array twice for each form.
///
///     tape.use_recipe(BlockScaling::mxfp8());
///
/// `encode_by_tile_maxima` says which scale a tile has. Elements beyond the largest number
/// saturate. If a tile has an infinity or NaN, its scale is NaN, and so is each of its elements.
///
/// Stochastic rounding draws from the stream `rounding`, keyed by the seed, the tape's step and the
/// number of the array within the step: it depends neither on the number of threads nor on what
/// happened in steps before. The two forms of an operand draw different bits.
///
/// Some products of attention, convolutions, token mixing and recurrent layers sum over another
/// extent than the one along which the blocks of their operand lie. They read the form whose blocks
/// lie along the last extent all the same.
class BlockScaling final : public Recipe {
 public:
  /// @throws DomainError for a format wider than a byte, without zero, or whose largest number is
  ///         below 2; for tiles without elements; for no scales; and for another rounding than
  ///         nearest_even and stochastic.
  explicit BlockScaling(const BlockScalingOptions& options) : options_(options) {
    require_operand("input", options_.operands.input);
    require_operand("weight", options_.operands.weight);
    require_operand("gradient", options_.operands.gradient);
    require(options_.scales != ScaleFormat::none, "BlockScaling", "expected a format of scales");
  }

  /// MXFP8: blocks of 32 under powers of two. The elements are E4M3, as TransformerEngine's
  /// MXFP8BlockScaling has them, or for gradients E5M2, the other format of the specification.
  /// Scales are rounded down, as the specification says.
  /// @see OCP Microscaling Formats (MX) Specification 1.0;
  ///      https://docs.nvidia.com/deeplearning/transformer-engine/api/common.html.
  [[nodiscard]] static BlockScaling mxfp8(const Format& gradient = Format::of<float8_e4m3fn>()) {
    return BlockScaling({.operands = {.gradient = {.format = gradient}}});
  }
  /// MXFP8 with scales rounded up, so that no element saturates, as in TransformerEngine.
  /// @see Mishra et al. 2025, arXiv:2506.08027, on why the largest gradients should not saturate.
  [[nodiscard]] static BlockScaling mxfp8_round_up() {
    return BlockScaling({.scale_rounding = ScaleRounding::round_up});
  }
  /// MXFP6, by default of E2M3 throughout; E3M2 is the other format that the specification has.
  [[nodiscard]] static BlockScaling mxfp6(const Format& format = Format::of<float6_e2m3fn>()) {
    const BlockScaledOperand block{.format = format};
    return BlockScaling({.operands = {.input = block, .weight = block, .gradient = block}});
  }
  /// MXFP4.
  [[nodiscard]] static BlockScaling mxfp4() { return mxfp6(Format::of<float4_e2m1fn>()); }

  /// As DeepSeek-V3: E4M3 throughout; activations and gradients in tiles of 1 x 128 along what is
  /// summed over, weights in tiles of 128 x 128.
  ///
  /// DeepGEMM departs from this: it takes no maximum for less than 1e-4, multiplies elements with
  /// the reciprocal of the scale, which is a rounding more, and rounds a/m before it looks for the
  /// power of two. Its tensor cores multiply partial sums of 128 products with the scales; here
  /// elements are multiplied with theirs, in binary32.
  /// @param scales binary32 as in the paper; or power_of_two, rounded up, as DeepGEMM has them
  ///        (UE8M0) for GPUs that multiply those.
  /// @see arXiv 2412.19437, section 3.3.2; https://github.com/deepseek-ai/DeepGEMM,
  ///      deep_gemm/utils/math.py.
  [[nodiscard]] static BlockScaling deepseek(ScaleFormat scales = ScaleFormat::binary32) {
    const BlockScaledOperand row{.along = 128};
    const BlockScaledOperand square{.along = 128, .across = 128};
    return BlockScaling({.operands = {.input = row, .weight = square, .gradient = row},
                         .scales = scales,
                         .scale_rounding = ScaleRounding::round_up});
  }

  /// NVFP4: E2M1 in blocks of 16 under two-level scales; weights in tiles of 16 x 16, and gradients
  /// rounded stochastically, as in NVIDIA's recipe. That rotates the operands of weight gradients
  /// by random Hadamard matrices, too, and leaves some layers in BF16; here they are not.
  ///
  /// A departure: where s would round to zero, it is the least positive number instead.
  /// @see arXiv 2509.25149; https://github.com/pytorch/ao/issues/3293, which lists what it takes.
  [[nodiscard]] static BlockScaling nvfp4(std::uint64_t seed = 0) {
    const BlockScaledOperand row{.format = Format::of<float4_e2m1fn>(), .along = 16};
    BlockScaledOperand square = row;
    square.across = 16;
    BlockScaledOperand stochastic = row;
    stochastic.rounding = Rounding::stochastic;
    return BlockScaling({.operands = {.input = row, .weight = square, .gradient = stochastic},
                         .scales = ScaleFormat::two_level,
                         .seed = seed});
  }

  [[nodiscard]] const BlockScalingOptions& options() const& { return options_; }
  [[nodiscard]] BlockScalingOptions options() const&& { return options_; }

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    const DefaultArithmetic arithmetic;
    const BlockScaledOperand& to = options_.operands[site.role];
    const bool is_stochastic = to.rounding == Rounding::stochastic;
    if (!is_stochastic && site.made_before != nullptr && is_form(site.made_before->array, to)) {
      return OperandForms{.array = site.made_before->array,
                          .over_rows = site.made_before->over_rows};
    }
    EncodeOptions encoding{.rounding = to.rounding};
    if (is_stochastic) {
      // As many bits as the mean takes to be exact, for all but the smallest numbers.
      encoding.random = StochasticRounding(
          Random(options_.seed, RandomStream::rounding, site.step, site.tensor), 32);
    }
    OperandForms forms = quantised(array, to, encoding, site.memory);
    forms.is_lasting = !is_stochastic;
    return forms;
  }

 private:
  static void require_operand(std::string_view role, const BlockScaledOperand& to) {
    require_tile_format("BlockScaling, " + std::string(role), to.format);
    require(to.along != 0 && to.across != 0, "BlockScaling", "expected for each ", role,
            " tiles of at least 1 x 1, got ", to.along, " along and ", to.across, " across");
    require(to.rounding == Rounding::nearest_even || to.rounding == Rounding::stochastic,
            "BlockScaling", "expected for each ", role, " rounding nearest_even or stochastic");
  }

  /// Some rows of an array in binary32, (count, columns), in scratch memory; all of them where they
  /// are if they are in binary32.
  [[nodiscard]] static EncodedArray floats_of(const EncodedArray& array, std::size_t first_row,
                                              std::size_t count) {
    const bool are_floats = array.format().is_binary32() && !array.has_scales();
    if (are_floats && count == array.rows()) return array;
    const Shape shape{count, array.columns()};
    const std::size_t first = first_row * array.columns();
    Array<float> floats(shape, &scratch_memory());
    if (array.format() == Format::of<float16>() && !array.has_scales()) {
      // What most tapes store, without a copy on the way.
      const auto* const halves = reinterpret_cast<const float16*>(array.codes().data()) + first;
      unit_scaling::decode(std::span<const float16>(halves, shape.size()), floats.mutable_span());
    } else {
      array.decode(first, floats.mutable_span());
    }
    return EncodedArray::view(floats);
  }

  [[nodiscard]] ScaleLayout over_columns(const BlockScaledOperand& to) const {
    return {options_.scales, to.across, to.along};
  }
  [[nodiscard]] ScaleLayout over_rows(const BlockScaledOperand& to) const {
    return {options_.scales, to.along, to.across};
  }
  [[nodiscard]] bool is_form(const EncodedArray& array, const BlockScaledOperand& to) const {
    return array.format() == to.format && array.scale_layout() == over_columns(to);
  }

  /// Rows whose floats stay in the second-level cache while all that is made of them is; whole
  /// tiles, and whole bytes of codes. All rows, if they are few or have a scale in common.
  [[nodiscard]] std::size_t rows_at_a_time(const EncodedArray& array,
                                           const BlockScaledOperand& to) const {
    constexpr std::size_t cached = std::size_t{1} << 15;
    const std::size_t all = array.rows();
    const std::size_t tile = std::max(to.along, to.across);
    if (array.size() <= cached || has_common_scale(options_.scales) || tile >= all) return all;
    const std::size_t unit = std::lcm(std::lcm(to.along, to.across), std::size_t{8});
    return std::min(all, std::max(unit, cached / array.columns() / unit * unit));
  }

  [[nodiscard]] OperandForms quantised(const EncodedArray& array, const BlockScaledOperand& to,
                                       const EncodeOptions& encoding,
                                       std::pmr::memory_resource* memory) const {
    const std::size_t rows = array.rows();
    const std::size_t step = rows_at_a_time(array, to);
    OperandForms forms{.array = unwritten(array.shape(), to.format, over_columns(to), memory)};
    if (to.along != to.across) {
      forms.over_rows = unwritten(array.shape(), to.format, over_rows(to), memory);
    }
    const Form of_columns(forms.array);
    std::optional<Form> of_rows;
    if (forms.over_rows) of_rows.emplace(*forms.over_rows);
    const auto encode = [&](std::size_t begin, std::size_t end) {
      const EncodedArray numbers = floats_of(array, begin, end - begin);
      EncodeOptions part = encoding;
      part.first_element = begin * array.columns();
      of_columns.encode(numbers, begin, options_.scale_rounding, part);
      if (!of_rows) return;
      // Beyond any element: random bits of its own.
      part.first_element += std::uint64_t{1} << 48;
      of_rows->encode(numbers, begin, options_.scale_rounding, part);
    };
    // All rows at once are shared among threads by what is called for them.
    if (step == rows) {
      encode(0, rows);
    } else {
      parallel_ranges(rows, step, encode);
    }
    return forms;
  }

  /// Room for codes and scales.
  [[nodiscard]] static EncodedArray unwritten(const Shape& shape, const Format& format,
                                              const ScaleLayout& layout,
                                              std::pmr::memory_resource* memory) {
    EncodedMemory room(shape.rows(), shape.columns(), format, layout, memory);
    return {shape, format, std::move(room.codes), layout, std::move(room.scale_codes)};
  }

  /// Where codes and scales of an array are, while threads write those of some rows each.
  class Form {
   public:
    explicit Form(EncodedArray& to)
        : rows_(to.rows()),
          columns_(to.columns()),
          format_(to.format()),
          layout_(to.scale_layout()),
          codes_(to.mutable_codes()),
          scales_(to.mutable_scale_codes()) {}

    /// Encodes rows, of whole tiles and bytes, where they belong.
    void encode(const EncodedArray& rows, std::size_t first_row, ScaleRounding rounding,
                const EncodeOptions& encoding) const {
      const auto part = [](std::span<std::uint8_t> of, std::size_t begin, std::size_t end) {
        return Array<std::uint8_t>::borrow(of.subspan(begin, end - begin), Shape{end - begin},
                                           &scratch_memory());
      };
      const std::size_t end = first_row + rows.rows();
      static_cast<void>(encode_by_tile_maxima(
          rows, format_, layout_, rounding, encoding,
          {part(codes_, format_.code_bytes(first_row * columns_),
                format_.code_bytes(end * columns_)),
           part(scales_, scale_byte(first_row), end == rows_ ? scales_.size() : scale_byte(end))}));
    }

   private:
    /// Where the scales of a row begin. Behind all of them is one that they have in common, if any.
    [[nodiscard]] std::size_t scale_byte(std::size_t row) const {
      return layout_.index(row, 0, columns_) * scale_bytes(layout_.format);
    }

    std::size_t rows_;
    std::size_t columns_;
    Format format_;
    ScaleLayout layout_;
    std::span<std::uint8_t> codes_;
    std::span<std::uint8_t> scales_;
  };

  BlockScalingOptions options_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
