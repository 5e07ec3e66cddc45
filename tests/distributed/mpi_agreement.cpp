// SPDX-License-Identifier: MIT
// A rank that asks whether the others are told what it is told. Compiled with two versions of the
// library, whose ranks are started as one job.
#include "unit_scaling/distributed/agreement.hpp"
#include "unit_scaling/distributed/mpi.hpp"
#include "unit_scaling/train/fingerprint.hpp"

int main(int argc, char** argv) {
  namespace us = unit_scaling;
  return us::distributed::run_mpi(argc, argv, [](us::distributed::Communicator& ranks) {
    us::distributed::require_agreement(ranks, us::train::Fingerprint{}, {});
  });
}
