// SPDX-License-Identifier: MIT
// The methods of training in FP8 that are compared: what each is made of.
#pragma once

#include <array>
#include <string_view>

namespace recipe_table {

/// What becomes of the factor on the loss.
enum class LossScale { one, fixed, dynamic };

/// What Adam keeps its moments in.
enum class States { binary32, fp8_lm, coat };

/// One way to train a model.
struct Method {
  std::string_view name;
  bool is_unit = false;          ///< unit scaling, else factors of one and a small initialisation
  std::string_view precision;    ///< fp32; or fp8, which stores FP16 and multiplies FP8
  std::string_view recipe = "";  ///< as `recipe_named` reads it; empty: the precision's formats
  LossScale loss_scale = LossScale::one;
  States states = States::binary32;
  double rate_divisor = 1;        ///< of the peak learning rate; see docs/results.md
  std::string_view extra_passes;  ///< over memory, beside those of fp8 without a recipe
  std::string_view chosen;        ///< what somebody had to choose, beside the learning rate
};

inline constexpr std::string_view reads_operands = "one read of each operand";
inline constexpr std::string_view reads_operands_twice = "one read of each operand, in both forms";

inline constexpr std::array methods{
    Method{.name = "FP32", .precision = "fp32", .extra_passes = "-", .chosen = "-"},
    Method{.name = "unit, FP32",
           .is_unit = true,
           .precision = "fp32",
           .extra_passes = "-",
           .chosen = "-"},
    Method{.name = "unit scaling",
           .is_unit = true,
           .precision = "fp8",
           .extra_passes = "none",
           .chosen = "none"},
    // Most gradients are lost in FP8 without a scale, and a lower rate is best then.
    Method{.name = "no scaling",
           .precision = "fp8",
           .rate_divisor = 4,
           .extra_passes = "none",
           .chosen = "none"},
    Method{.name = "loss scale",
           .precision = "fp8",
           .loss_scale = LossScale::fixed,
           .extra_passes = "none",
           .chosen = "1: the factor, 1024"},
    Method{.name = "dynamic loss scale",
           .precision = "fp8",
           .loss_scale = LossScale::dynamic,
           .extra_passes = "none",
           .chosen = "4: first factor, growth, back-off, interval"},
    Method{.name = "AMAX",
           .precision = "fp8",
           .recipe = "amax",
           .extra_passes = reads_operands,
           .chosen = "1: margin, 0"},
    Method{.name = "delayed scaling",
           .precision = "fp8",
           .recipe = "delayed",
           .extra_passes = reads_operands,
           .chosen = "3: margin, length of the history, rule"},
    Method{.name = "CSCALE",
           .precision = "fp8",
           .recipe = "constant:5",
           .extra_passes = "none",
           .chosen = "1: the bias, 5"},
    Method{.name = "MXFP8",
           .precision = "fp8",
           .recipe = "mxfp8",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "MXFP6",
           .precision = "fp8",
           .recipe = "mxfp6",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "MXFP4",
           .precision = "fp8",
           .recipe = "mxfp4",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "DeepSeek-V3",
           .precision = "fp8",
           .recipe = "deepseek",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "NVFP4",
           .precision = "fp8",
           .recipe = "nvfp4",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "FP8-LM",
           .precision = "fp8",
           .recipe = "amax",
           .states = States::fp8_lm,
           .extra_passes = "one read of each operand; weights twice, gradients once",
           .chosen = "4: margin, 0; of gradients' factor: first, 1024; threshold; steps to double"},
    Method{.name = "COAT",
           .precision = "fp8",
           .recipe = "coat",
           .states = States::coat,
           .extra_passes = "one read of each operand; what is saved twice more",
           .chosen = "3: margin, sizes of groups"},
    Method{.name = "unit scaling + AMAX",
           .is_unit = true,
           .precision = "fp8",
           .recipe = "amax",
           .extra_passes = reads_operands,
           .chosen = "1: margin, 0"},
    Method{.name = "unit scaling + MXFP8",
           .is_unit = true,
           .precision = "fp8",
           .recipe = "mxfp8",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "unit scaling + MXFP4",
           .is_unit = true,
           .precision = "fp8",
           .recipe = "mxfp4",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "unit scaling + NVFP4",
           .is_unit = true,
           .precision = "fp8",
           .recipe = "nvfp4",
           .extra_passes = reads_operands_twice,
           .chosen = "none"},
    Method{.name = "unit scaling + FP8-LM states",
           .is_unit = true,
           .precision = "fp8",
           .states = States::fp8_lm,
           .extra_passes = "weights twice, gradients once",
           .chosen = "none"},
    Method{.name = "unit scaling + COAT states",
           .is_unit = true,
           .precision = "fp8",
           .states = States::coat,
           .extra_passes = "none",
           .chosen = "1: size of groups"},
};

}  // namespace recipe_table
