// SPDX-License-Identifier: MIT
#include <unit_scaling/unit_scaling.hpp>

int second();

int main() { return second(); }
