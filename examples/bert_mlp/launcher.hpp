// SPDX-License-Identifier: MIT
// Whether this process is one of several that train together.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace bert_mlp {

/// A program that starts the processes of a job, and the variables of the environment by which it
/// is known.
struct Launcher {
  std::string_view name;
  std::string_view engine;    // the MPI that its processes need, as the programs for it are called
  const char* processes;      // the variable that says how many there are
  const char* on_this_host;   // and how many of them are on this host; it may be missing
  const char* set = nullptr;  // without it they do not find each other; null: it takes none
};

/// The first one that fits is it: mpirun may use srun, and leaves its variables in place.
inline constexpr std::array launchers{
    Launcher{"mpirun of Open MPI", "openmpi", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    Launcher{"mpirun of MPICH", "mpich", "PMI_SIZE", "MPI_LOCALNRANKS"},
    Launcher{"srun --mpi=pmix", "openmpi", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE",
             "PMIX_RANK"}};

/// A job of several processes, of which this is one.
struct Job {
  const Launcher* launcher;
  std::size_t processes;
  std::size_t on_this_host;
};

/// The job of this process; empty if it is alone.
/// @throws std::invalid_argument if it is one of several that do not find each other.
[[nodiscard]] inline std::optional<Job> job_of_this_process() {
  const auto number = [](const char* variable) {
    const char* const value = std::getenv(variable);
    const std::string_view text = value == nullptr ? "" : value;
    std::size_t result = 0;  // of "4(x2)", which Slurm writes for two hosts, 4
    std::from_chars(text.data(), text.data() + text.size(), result);
    return result;
  };
  for (const Launcher& each : launchers) {
    const std::size_t processes = number(each.processes);
    if (processes == 0) continue;
    if (processes == 1) return std::nullopt;
    if (each.set != nullptr && std::getenv(each.set) == nullptr) {
      throw std::invalid_argument(
          "started as one of " + std::to_string(processes) + " processes, as " + each.processes +
          " says, that would each train a whole model; start them by " + std::string(each.name));
    }
    return Job{&each, processes, std::max<std::size_t>(1, number(each.on_this_host))};
  }
  return std::nullopt;
}

}  // namespace bert_mlp
