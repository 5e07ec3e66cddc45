// SPDX-License-Identifier: MIT
// What the whole library costs to compile where a network is trained.
#include <cstddef>
#include <cstdint>
#include <unit_scaling/unit_scaling.hpp>

namespace us = unit_scaling;

int main() {
  constexpr std::size_t items = 64, features = 32, hidden = 128, classes = 10;
  us::Array<us::float16> x({items, features});
  us::Array<std::int32_t> labels({items});
  const us::Random random(1);
  for (std::size_t i = 0; i < x.size(); ++i) x.mutable_data()[i] = us::float16(random.normal(i));
  for (std::size_t i = 0; i < items; ++i) labels.mutable_data()[i] = static_cast<int>(i % classes);

  us::nn::Initialiser initialiser(2, us::scaling::paper.on_cut_edge());
  us::nn::Linear up(initialiser, "up", features, hidden);
  us::nn::Linear down(initialiser, "down", hidden, classes);
  auto parameters = us::optim::parameters_of(up);
  for (us::Parameter* parameter : us::optim::parameters_of(down)) parameters.push_back(parameter);
  us::optim::AdamW adam(parameters);
  us::Tape<us::precision::fp8> tape;
  for (int step = 0; step < 100; ++step) {
    tape.clear();
    tape.backward(us::ops::cross_entropy(down(us::ops::gelu(up(tape.constant(x)))), labels));
    adam.step(tape, 0x1p-4);
  }
}
