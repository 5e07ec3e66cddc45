// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Compares the library with vectors that other libraries computed: files
/// `{"op", "cases": [...]}`. Each op has one source file here that registers how its cases are run;
/// a new op is one more such file.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/shape.hpp"

namespace peer_vectors {

using Json = nlohmann::json;

/// A tensor of the file, row-major.
struct Tensor {
  unit_scaling::Shape shape;
  std::vector<double> data;
};

/// A number, or the text of one: "inf", "-inf", "nan", "0x1.8p-3", for which JSON has no literal.
inline double number(const Json& json) {
  if (!json.is_string()) return json.get<double>();
  const auto text = json.get<std::string>();
  char* end = nullptr;
  const double result = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') throw std::runtime_error("'" + text + "' is no number");
  return result;
}

inline Tensor tensor(const Json& json) {
  const auto extents = json.at("shape").get<std::vector<std::size_t>>();
  Tensor result{unit_scaling::Shape(std::span<const std::size_t>(extents)), {}};
  for (const Json& element : json.at("data")) result.data.push_back(number(element));
  if (result.data.size() != result.shape.size()) {
    throw std::runtime_error("a tensor of shape " + to_string(result.shape) + " has " +
                             std::to_string(result.data.size()) + " elements");
  }
  return result;
}

/// What an element may differ by: `of_rms` times the root mean square of the expected tensor plus
/// `of_element` times the expected element.
struct Tolerance {
  double of_rms;
  double of_element;
};

/// Says where `actual` differs from `expected` most by more than the tolerance; empty if nowhere.
/// NaN agrees with NaN, an infinity with itself.
template <class T>
[[nodiscard]] std::string difference(const Tensor& expected, const unit_scaling::Shape& shape,
                                     std::span<const T> actual, Tolerance tolerance) {
  if (shape != expected.shape) {
    return "expected shape " + to_string(expected.shape) + ", got " + to_string(shape);
  }
  double squares = 0;
  std::size_t finite = 0;
  for (const double value : expected.data) {
    if (!std::isfinite(value)) continue;
    squares += value * value;
    ++finite;
  }
  // A tensor of zeros has no scale of its own; it is compared on that of unit scaling.
  const double rms = squares > 0 ? std::sqrt(squares / static_cast<double>(finite)) : 1;
  double worst = 1;
  std::string text;
  for (std::size_t i = 0; i < expected.data.size(); ++i) {
    const double want = expected.data[i];
    const auto got = static_cast<double>(actual[i]);
    double error = 0;
    if (std::isfinite(want) && std::isfinite(got)) {
      error =
          std::abs(got - want) / (tolerance.of_rms * rms + tolerance.of_element * std::abs(want));
    } else if (want != got && !(std::isnan(want) && std::isnan(got))) {
      error = HUGE_VAL;
    }
    if (error > worst) {
      worst = error;
      std::ostringstream message;
      message.precision(12);
      message << "element " << i << " is " << got << ", expected " << want << ", " << error
              << " times the tolerance";
      text = message.str();
    }
  }
  return text;
}

/// What came of a comparison. Nothing can be left out of it.
struct Report {
  std::size_t files = 0;  ///< of known ops
  std::size_t cases = 0;  ///< compared, whether they agree or not
  std::vector<std::string> failures;
};

/// @throws std::runtime_error naming a field of `json` that is not among the `known`: the
///         comparison would ignore it. Fields that only describe are known everywhere.
inline void require_known(const Json& json, std::set<std::string_view> known) {
  known.insert({"name", "note", "source", "seed"});
  for (const auto& entry : json.items()) {
    if (!known.contains(entry.key())) {
      throw std::runtime_error("the field '" + entry.key() + "' is not known");
    }
  }
}

/// What a case can say: one text for each way in which the library disagrees with it.
using Failures = std::vector<std::string>;

/// Runs one case of an op.
using CaseRunner = std::function<Failures(const Json& one_case)>;

/// The runner of every op known.
inline std::map<std::string, CaseRunner>& runners() {
  static std::map<std::string, CaseRunner> all;
  return all;
}

/// A name for messages: an op's cases have a name, those of the number formats a format.
inline std::string name_of(const Json& one_case) {
  for (const char* key : {"name", "format"}) {
    if (one_case.contains(key)) return one_case.at(key).get<std::string>();
  }
  return "?";
}

/// Compares every case of one file, whose contents `file` are.
/// @throws std::runtime_error for a field of the file that is not known.
inline void compare_file(const Json& file, Report& report) {
  require_known(file, {"op", "cases"});
  const auto op = file.at("op").get<std::string>();
  const auto runner = runners().find(op);
  if (runner == runners().end()) {
    report.failures.push_back("op '" + op + "' is not known");
    return;
  }
  ++report.files;
  const Json& cases = file.at("cases");
  if (cases.empty()) report.failures.push_back("op '" + op + "' has no cases");
  for (const Json& one_case : cases) {
    const std::string label = op + " [" + name_of(one_case) + "]: ";
    try {
      const Failures failures = runner->second(one_case);
      for (const std::string& failure : failures) report.failures.push_back(label + failure);
    } catch (const std::exception& error) {
      report.failures.push_back(label + error.what());
    }
    ++report.cases;
  }
}

/// Compares every case of every JSON file in a folder.
/// @throws std::runtime_error if there is none.
inline Report compare_folder(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path());
  }
  if (paths.empty()) throw std::runtime_error("no JSON file in " + folder.string());
  std::sort(paths.begin(), paths.end());
  Report report;
  for (const auto& path : paths) {
    try {
      std::ifstream stream(path);
      compare_file(Json::parse(stream), report);
    } catch (const std::exception& error) {
      report.failures.push_back(path.filename().string() + ": " + error.what());
    }
  }
  return report;
}

}  // namespace peer_vectors
