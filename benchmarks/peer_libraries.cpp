// SPDX-License-Identifier: MIT
#include "peer_libraries.hpp"

#include <dlfcn.h>

#include <Eigen/Core>
#include <map>
#include <stdexcept>
#include <string>

#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#endif

#if defined(UNIT_SCALING_HAVE_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#endif

namespace unit_scaling_benchmarks {

namespace {

/// Binds peers that bring OpenMP to one thread. A call rather than OMP_NUM_THREADS, which the
/// runtime read before main(); looked up, for this program itself is built without OpenMP, and
/// which runtime a peer brought is the peer's affair.
void use_one_thread() {
  if (void* symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads"); symbol != nullptr) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
}

#if defined(UNIT_SCALING_HAVE_ONEDNN)

/// Holds oneDNN to our target. Beyond AVX-512 it has nothing that its float products use.
void hold_onednn() {
#if defined(__x86_64__) && !defined(__AVX512F__)
#if defined(__AVX2__)
  constexpr auto target = dnnl_cpu_isa_avx2;
#elif defined(__AVX__)
  constexpr auto target = dnnl_cpu_isa_avx;
#else
  constexpr auto target = dnnl_cpu_isa_sse41;  // the least that it has
#endif
  if (dnnl_set_max_cpu_isa(target) != dnnl_success) {
    throw std::runtime_error("oneDNN cannot be held to the instructions of this program's target");
  }
#endif
}

/// Which instructions oneDNN uses here: " with AVX2". Empty if its number for them is not known.
std::string onednn_instructions() {
  // Each set is a set of bits, with those of the sets that it contains.
  const unsigned used = dnnl_get_effective_cpu_isa();
  const auto has = [&](unsigned set) { return (used & set) == set; };
  if (has(dnnl_cpu_isa_avx512_core)) return " with AVX-512";
  if (has(dnnl_cpu_isa_avx2)) return " with AVX2";
  if (has(dnnl_cpu_isa_avx)) return " with AVX";
  if (has(dnnl_cpu_isa_sse41)) return " with SSE4.1";
  return "";
}

#endif

std::string dotted(int major, int minor, int patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

}  // namespace

void bind_peers() {
  use_one_thread();
#if defined(UNIT_SCALING_HAVE_ONEDNN)
  hold_onednn();
#endif
}

std::map<std::string, std::string> peer_versions() {
  std::map<std::string, std::string> versions;
  versions["Eigen"] = dotted(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
#if defined(__GLIBC__)
  versions["glibc"] = gnu_get_libc_version();
#endif
#if defined(UNIT_SCALING_HAVE_ONEDNN)
  const dnnl_version_t* version = dnnl_version();
  versions["oneDNN"] =
      dotted(version->major, version->minor, version->patch) + onednn_instructions();
#endif
  return versions;
}

}  // namespace unit_scaling_benchmarks
