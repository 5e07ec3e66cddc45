// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the cut-edges of a recorded graph.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// For each op and each of its inputs: whether the edge into it is a cut-edge, one whose removal
/// takes the graph apart. Where it is one, forward and backward factors may differ.
///
/// The graph is the undirected one of ops and values: an op is joined to each value it makes, and
/// once to a value for each time it reads it. Parameters and inputs are leaves unless they are read
/// twice. Inputs that no gradient passes to are not part of it; their edges count as cut-edges.
/// @throws std::invalid_argument as Graph.
/// @see Blake et al. 2023, arXiv:2303.11257, section 5; Tarjan 1974, "A note on finding the bridges
///      of a graph".
[[nodiscard]] inline std::vector<std::vector<bool>> cut_edges(std::span<const OpRecord> ops) {
  const Graph graph(ops);
  // Vertices: the ops, then the values as they come. Edges are numbered, so that two between the
  // same vertices are two.
  struct Edge {
    std::size_t to;
    std::size_t number;
  };
  std::vector<std::vector<Edge>> edges(ops.size());
  std::map<std::size_t, std::size_t> vertex_of_value;
  std::size_t count = 0;
  const auto join = [&](std::size_t op, std::size_t value) {
    const auto [entry, is_new] = vertex_of_value.try_emplace(value, edges.size());
    if (is_new) edges.emplace_back();
    edges[op].push_back({entry->second, count});
    edges[entry->second].push_back({op, count});
    return count++;
  };
  std::vector<std::vector<bool>> result;
  std::map<std::size_t, std::pair<std::size_t, std::size_t>> input_of_edge;
  for (std::size_t k = 0; k < ops.size(); ++k) {
    result.emplace_back(ops[k].inputs.size(), true);
    for (std::size_t i = 0; i < ops[k].inputs.size(); ++i) {
      if (!ops[k].inputs[i].is_wanted) continue;
      result[k][i] = false;
      input_of_edge[join(k, ops[k].inputs[i].value)] = {k, i};
    }
    for (const OpRecord::Output& output : ops[k].outputs) (void)join(k, output.value);
  }

  // Depth first, with a stack of its own: graphs are deeper than threads' stacks. An edge to a
  // child is a bridge if nothing below it leads back to above it.
  struct Visit {
    std::size_t vertex;
    std::size_t came_by;  ///< number of the edge
    std::size_t next = 0;
  };
  constexpr auto none = static_cast<std::size_t>(-1);
  std::vector<std::size_t> entered(edges.size(), none);
  std::vector<std::size_t> lowest(edges.size(), none);
  std::size_t clock = 0;
  for (std::size_t root = 0; root < edges.size(); ++root) {
    if (entered[root] != none) continue;
    std::vector<Visit> stack{{root, none}};
    entered[root] = lowest[root] = clock++;
    while (!stack.empty()) {
      Visit& at = stack.back();
      if (at.next < edges[at.vertex].size()) {
        const Edge edge = edges[at.vertex][at.next++];
        if (edge.number == at.came_by) continue;
        if (entered[edge.to] == none) {
          entered[edge.to] = lowest[edge.to] = clock++;
          stack.push_back({edge.to, edge.number});
        } else {
          lowest[at.vertex] = std::min(lowest[at.vertex], entered[edge.to]);
        }
        continue;
      }
      const Visit done = at;
      stack.pop_back();
      if (stack.empty()) break;
      const std::size_t parent = stack.back().vertex;
      lowest[parent] = std::min(lowest[parent], lowest[done.vertex]);
      const bool is_bridge = lowest[done.vertex] > entered[parent];
      if (const auto found = input_of_edge.find(done.came_by);
          found != input_of_edge.end() && is_bridge) {
        result[found->second.first][found->second.second] = true;
      }
    }
  }
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
