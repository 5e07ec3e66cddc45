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
#include "project_text.hpp"
#include "recipe_table/settings.hpp"
#include "unit_scaling/analysis/line_chart.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/parallel.hpp"
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
  app.add_option("--layers", settings.layers, "Blocks of the models")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 10));
  app.add_option("--tokens", settings.tokens, "Characters in a step")
      ->capture_default_str()
      ->check(CLI::Range(64, 1 << 20));
  app.add_option("--lr", settings.unit_rate, "Peak learning rate")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", settings.threads, "Changes the speed and nothing else")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option("--data", settings.data, "Files to train on (default: the project's sources)");
  app.add_option("--out", out,
                 "Folder for cells.json, to which a study is added that was stopped, law.md and "
                 "law.svg")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  us::set_thread_count(settings.threads);
  if (settings.data.empty()) settings.data = examples::project_files(UNIT_SCALING_SOURCE_DIR);
  const us::train::TextCorpus corpus(us::train::TextCorpus::read_files(settings.data),
                                     recipe_table::BertMlpTask::window + 1);
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
