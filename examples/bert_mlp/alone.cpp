// SPDX-License-Identifier: MIT
// The program for a process alone. It is not linked with MPI, and becomes one that is where mpirun
// starts it: so it begins as fast and takes as little memory as ever, and fits each mpirun.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "launcher.hpp"
#include "run_as_rank.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/distributed/communicator.hpp"

namespace bert_mlp {

namespace {

using unit_scaling::distributed::Communicator;
using unit_scaling::distributed::Request;

/// The only rank, which sends itself what it receives.
class OnlyRank final : public Communicator {
 public:
  [[nodiscard]] std::size_t rank() const override { return 0; }
  [[nodiscard]] std::size_t size() const override { return 1; }

 private:
  Request start(std::string_view /*operation*/, Sent sent, Received received) override {
    std::copy(sent[0].begin(), sent[0].end(), received[0].begin());
    return {};
  }
};

/// @throws std::invalid_argument that says why it cannot be.
[[noreturn]] void become_program_of(const Launcher& launcher, char** argv) {
  std::error_code error;
  std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  program += "_" + std::string(launcher.engine);
  execv(program.c_str(), argv);
  const int number = errno;
  const std::string reason =
      number == ENOENT && !error
          ? "there is no program for it: install lib" + std::string(launcher.engine) +
                "-dev, and build again"
          : "cannot run " + unit_scaling::in_quotes(program.string()) + ": " +
                (error ? error : std::error_code(number, std::generic_category())).message();
  throw std::invalid_argument("started by " + std::string(launcher.name) + ", but " + reason);
}

}  // namespace

int run_as_rank(int /*argc*/, char** argv, std::chrono::milliseconds /*deadline*/,
                const std::function<int(Communicator&)>& function) {
  if (const auto job = job_of_this_process()) become_program_of(*job->launcher, argv);
  OnlyRank only;
  return function(only);
}

}  // namespace bert_mlp
