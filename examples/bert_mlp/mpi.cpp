// SPDX-License-Identifier: MIT
// The program for the processes of an MPI job.
#include "unit_scaling/distributed/mpi.hpp"

#include <chrono>
#include <functional>

#include "launcher.hpp"
#include "run_as_rank.hpp"
#include "unit_scaling/core/check.hpp"

namespace bert_mlp {

int run_as_rank(int argc, char** argv, std::chrono::milliseconds deadline,
                const std::function<int(unit_scaling::distributed::Communicator&)>& function) {
  // Asked first: MPI sets such variables in a process that it takes for the only one.
  const auto job = job_of_this_process();
  int code = 1;
  unit_scaling::distributed::run_mpi(
      argc, argv,
      [&](unit_scaling::distributed::Communicator& ranks) {
        // Under the mpirun of another MPI each process is a job of its own.
        unit_scaling::require(!job || job->processes == ranks.size(), "bert_mlp", "expected ",
                              ranks.size(), " processes as MPI tells, got ", job->processes,
                              " from ", job->launcher->name, ", which is of another MPI");
        code = function(ranks);
      },
      {.deadline = deadline});
  return code;
}

}  // namespace bert_mlp
