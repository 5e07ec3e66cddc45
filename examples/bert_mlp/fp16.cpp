// SPDX-License-Identifier: MIT
#include "tape_of.hpp"

namespace bert_mlp {

template std::unique_ptr<AnyTape> make_tape_of<us::precision::fp16>(
    us::TapeMode mode, std::pmr::memory_resource* upstream);

}  // namespace bert_mlp
