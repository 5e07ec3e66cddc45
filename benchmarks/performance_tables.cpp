// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. The program behind `./dev tables`: writes the tables of docs/performance.md.
#include "performance_tables.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "unit_scaling/core/atomic_file.hpp"

int main(int argc, char** argv) try {
  std::filesystem::path document;
  std::filesystem::path folder;
  CLI::App app("Writes the tables of what ./dev compare measured into a document.");
  app.add_option("DOCUMENT", document,
                 "The Markdown file, which has the two lines between which "
                 "the tables stand")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("FOLDER", folder, "Where the outputs of ./dev compare are, *.json")
      ->required()
      ->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);

  using namespace unit_scaling_benchmarks;
  std::ifstream stream(document, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  unit_scaling::write_file(document,
                           with_tables(text, performance_tables(read_comparison_outputs(folder))));
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::fprintf(stderr, "performance_tables: %s\n", error.what());
  return EXIT_FAILURE;
}
