// SPDX-License-Identifier: MIT
#include "support/compiled.hpp"

#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace unit_scaling_test {

UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(UNIT_SCALING_TEST_RANDOM_ARRAYS, );
UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(UNIT_SCALING_TEST_ROUNDING_CHECK, );
UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(UNIT_SCALING_TEST_STATISTICS, );

}  // namespace unit_scaling_test
