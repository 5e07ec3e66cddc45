// SPDX-License-Identifier: MIT
#include "tape_of.hpp"

namespace bert_mlp {

template std::unique_ptr<AnyTape> make_tape_of<us::precision::fp32>(
    us::TapeMode mode, std::pmr::memory_resource* upstream);
template us::Variable<us::precision::fp32, float> record_loss(us::Tape<us::precision::fp32>& tape,
                                                              const Loss& loss);

}  // namespace bert_mlp
