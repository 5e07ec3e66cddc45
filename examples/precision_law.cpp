// SPDX-License-Identifier: MIT
// Trains a model at several widths, lengths and precisions, and fits the scaling law for precision.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "precision_law/page.hpp"
#include "precision_law/study.hpp"
#include "recipe_table/settings.hpp"
#include "recipe_table/sweep.hpp"
#include "unit_scaling/analysis/line_chart.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/train/text_corpus.hpp"

int main(int argc, char** argv) try {
  using namespace precision_law;
  recipe_table::Settings settings;
  settings.layers = 2;
  settings.threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::size_t> hidden_sizes{32, 64, 128};
  std::vector<std::size_t> steps{100, 200, 400};
  Elements elements = Elements::integer;
  std::filesystem::path out = "precision_law";
  CLI::App app{
      "Trains a BertMlp at several widths, lengths and precisions, and fits the scaling law for "
      "precision (arXiv:2411.04330)."};
  app.add_option("--hidden", hidden_sizes, "Channels of the models")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 14));
  app.add_option("--steps", steps, "Steps of the trainings")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--elements", elements, "Narrow numbers: integer or floating")
      ->transform(CLI::CheckedTransformer(std::vector<std::pair<std::string, Elements>>{
          {"integer", Elements::integer}, {"floating", Elements::floating}}));
  recipe_table::add_options(app, settings);
  app.add_option("--out", out,
                 "Folder for cells.json, to which a study is added that was stopped, law.md and "
                 "law.svg")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const us::train::TextCorpus corpus = recipe_table::corpus_of(settings);
  std::filesystem::create_directories(out);
  settings.hidden_size = settings.steps = 0;  // of the cells
  Outcomes outcomes(
      out / "cells.json",
      settings.text(corpus) + ", " + (elements == Elements::integer ? "integer" : "floating"));
  std::vector<Outcome> all;
  for (const Cell& cell : grid(hidden_sizes, steps, elements)) {
    auto outcome = outcomes.find(cell);
    if (!outcome) {
      outcome = train(cell, elements, settings, corpus, 1);
      outcomes.add(cell, *outcome);
      std::fprintf(stderr, "%s: %.4f bits per character\n", cell.name().c_str(),
                   outcome->training.loss);
    }
    all.push_back(*outcome);
  }
  const std::string text = page(all);
  us::write_file(out / "law.md", text);
  std::vector<Training> trainings;
  for (const Outcome& each : all) trainings.push_back(each.training);
  us::write_file(out / "law.svg", picture(all, fit(trainings)));
  std::fputs(text.c_str(), stdout);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "precision_law: %s\n", error.what());
  return 1;
}
