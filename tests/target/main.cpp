// SPDX-License-Identifier: MIT
// Prints the results of the parts linked, after the name of each; with both of them, also tries
// whether they have one number of threads and tell of one signal.
#include <cstddef>
#include <cstdio>
#include <cstdlib>

#include "part.hpp"

/// The library takes no name of C from a program.
extern "C" void note_signal(int /*signal*/) { std::abort(); }

int main() {
#ifdef WITH_BASELINE
  std::puts("baseline");
  baseline::print_results();
#endif
#ifdef WITH_NATIVE
  std::puts("native");
  native::print_results();
#endif
#if defined(WITH_BASELINE) && defined(WITH_NATIVE)
  const auto expect = [](std::size_t count) {
    if (baseline::threads() != count || native::threads() != count) {
      std::fprintf(stderr, "%zu threads were set; baseline has %zu, native %zu\n", count,
                   baseline::threads(), native::threads());
      return false;
    }
    if (count > 1 && !(baseline::loop_is_shared() && native::loop_is_shared())) {
      std::fputs("a loop was not shared between the threads\n", stderr);
      return false;
    }
    return true;
  };
  baseline::set_threads(3);
  if (!expect(3)) return 1;
  native::set_threads(2);
  if (!expect(2)) return 1;
  baseline::set_threads(1);
  if (!expect(1)) return 1;
  if (!baseline::is_interrupted(native::interruption) ||
      !native::is_interrupted(baseline::interruption)) {
    std::fputs("one part was not told of the signal that the other got\n", stderr);
    return 1;
  }
#endif
}
