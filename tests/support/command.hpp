// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Runs programs as a user would.
#pragma once

#include <sys/wait.h>

#include <cstddef>
#include <cstdio>
#include <string>

namespace unit_scaling_test {

struct Outcome {
  int exit_code = -1;
  std::string output;
};

/// What a command of the shell writes to its standard output, and its exit code.
inline Outcome run_command(const std::string& command) {
  Outcome outcome;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  char buffer[4096];
  while (const std::size_t size = std::fread(buffer, 1, sizeof(buffer), pipe)) {
    outcome.output.append(buffer, size);
  }
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

}  // namespace unit_scaling_test
