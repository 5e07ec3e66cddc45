// SPDX-License-Identifier: MIT
#include <unit_scaling/analysis.hpp>
#include <unit_scaling/unit_scaling.hpp>
#ifdef WITH_EIGEN
#include <unit_scaling/core/eigen.hpp>
#include <unit_scaling/formats/eigen_traits.hpp>
#endif

int second();
#ifdef UNIT_SCALING_COMPILED
bool steps();

int main() { return steps() ? second() : 1; }
#else
int main() { return second(); }
#endif
