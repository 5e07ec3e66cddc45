// SPDX-License-Identifier: MIT
// Trains one model under each method of training in FP8, and writes the table that compares them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "recipe_table/method.hpp"
#include "recipe_table/results.hpp"
#include "recipe_table/settings.hpp"
#include "recipe_table/sweep.hpp"
#include "recipe_table/training.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace {

using namespace recipe_table;

Figures train(Model model, const Method& method, const Settings& settings,
              const us::train::TextCorpus& corpus, std::uint64_t seed) {
  using us::precision::fp32;
  using us::precision::fp8;
  const bool is_float = method.precision == "fp32";
  if (model == Model::bert_mlp) {
    return is_float ? train_task<BertMlpTask, fp32>(method, settings, corpus, seed)
                    : train_task<BertMlpTask, fp8>(method, settings, corpus, seed);
  }
  return is_float ? train_task<DecoderTask, fp32>(method, settings, corpus, seed)
                  : train_task<DecoderTask, fp8>(method, settings, corpus, seed);
}

}  // namespace

int main(int argc, char** argv) try {
  Settings settings;
  settings.threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<Model> models{Model::bert_mlp, Model::decoder};
  std::vector<std::string> only;
  std::uint64_t seeds = 5;
  std::filesystem::path out = "recipes";
  CLI::App app{
      "Trains one model under each method of training in FP8, and writes the table that "
      "compares them."};
  app.add_option("--model", models, "bert_mlp or decoder (default: both)")
      ->transform(CLI::Transformer(std::vector<std::pair<std::string, Model>>{
          {"bert_mlp", Model::bert_mlp}, {"decoder", Model::decoder}}))
      ->type_name("MODEL");
  std::string names;
  for (const Method& each : methods) names += (names.empty() ? "" : ", ") + std::string(each.name);
  app.add_option("--method", only, "Only methods of these names (default: all): " + names);
  app.add_option("--seeds", seeds, "Trainings of each, with seeds from 1 on")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--steps", settings.steps, "Steps of a training")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--hidden", settings.hidden_size, "Channels of the model")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 14) &
              CLI::Validator(
                  [](const std::string& text) {
                    return std::stoul(text) % 2 == 0
                               ? std::string()
                               : "expected an even number, as positions rotate pairs, got " + text;
                  },
                  "even"));
  app.add_option("--plain-lr", settings.plain_rate, "Peak learning rate without unit scaling")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  add_options(app, settings);
  app.add_option("--out", out,
                 "Folder for runs.json, to which a sweep is added that was stopped, "
                 "and table.md")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  for (const std::string& name : only) {
    if (std::none_of(methods.begin(), methods.end(),
                     [&](const Method& each) { return each.name == name; })) {
      std::fprintf(stderr, "recipe_table: --method '%s': expected one of %s\n", name.c_str(),
                   names.c_str());
      return 2;
    }
  }
  const us::train::TextCorpus corpus = corpus_of(settings);
  std::filesystem::create_directories(out);
  Results results(out / "runs.json", settings.text(corpus));
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const Model model : models) {
      for (const Method& method : methods) {
        const bool is_wanted =
            only.empty() || std::find(only.begin(), only.end(), method.name) != only.end();
        if (!is_wanted || results.has(model, method, seed)) continue;
        const Figures figures = train(model, method, settings, corpus, seed);
        results.add(model, method, seed, figures);
        std::fprintf(stderr, "%-9s %-30.*s seed %llu  %.3f bits per character, %.0f tokens/s\n",
                     to_string(model).c_str(), static_cast<int>(method.name.size()),
                     method.name.data(), static_cast<unsigned long long>(seed),
                     figures.bits_per_character, figures.tokens_per_second);
      }
    }
  }
  std::string text;
  for (const Model model : models) text += to_string(model) + "\n\n" + results.table(model) + "\n";
  us::write_file(out / "table.md", text);
  std::fputs(text.c_str(), stdout);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "recipe_table: %s\n", error.what());
  return 1;
}
