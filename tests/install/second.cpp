// SPDX-License-Identifier: MIT
// Two files include everything: a function that a header forgot to make inline does not link.
#include <unit_scaling/analysis.hpp>
#include <unit_scaling/unit_scaling.hpp>
#ifdef WITH_EIGEN
#include <unit_scaling/core/eigen.hpp>
#include <unit_scaling/formats/eigen_traits.hpp>
#endif
