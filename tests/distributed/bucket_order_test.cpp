// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/bucket_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "unit_scaling/core/random.hpp"
#include "unit_scaling/distributed/communicator.hpp"

namespace bucket_order_test {

using unit_scaling::Random;
using unit_scaling::distributed::Request;
using unit_scaling::distributed::detail::BucketOrder;

/// What happens to the operations of one rank.
struct Events {
  std::vector<std::string> done;                ///< in this order: "terms 0", "taken 0"
  std::map<std::string, bool> has_come;         ///< whether the messages of "terms 0" have
  std::map<std::string, int> looks;             ///< at "terms 0"
  std::vector<std::string> waited_for;          ///< "terms 0"
  std::map<std::string, std::size_t> is_going;  ///< on their way, by kind
  std::size_t most_going = 0;                   ///< of a kind
};

/// An operation whose messages come when `Events` says so, or when they are waited for.
class Operation final : public Request::Operation {
 public:
  Operation(Events& events, const std::string& kind, std::size_t bucket)
      : events_(&events), kind_(kind), name_(kind + " " + std::to_string(bucket)) {
    events_->done.push_back(name_);
    events_->most_going = std::max(events_->most_going, ++events_->is_going[kind_]);
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation() override { --events_->is_going[kind_]; }

  [[nodiscard]] bool is_done() override {
    ++events_->looks[name_];
    return events_->has_come[name_];
  }
  void wait() override { events_->waited_for.push_back(name_); }

 private:
  Events* events_;
  std::string kind_;
  std::string name_;
};

/// Operations on buckets, as BucketOrder starts them.
class Stages {
 public:
  Stages(Events& events, std::size_t buckets) : events_(&events), terms_(buckets), sums_(buckets) {}

  void start_terms(std::size_t k) { start(terms_[k], "terms", k); }
  [[nodiscard]] Request& terms(std::size_t k) { return terms_.at(k); }
  void start_sums(std::size_t k) { start(sums_[k], "sums", k); }
  [[nodiscard]] Request& sums(std::size_t k) { return sums_.at(k); }
  void take_sums(std::size_t k) { events_->done.push_back("taken " + std::to_string(k)); }
  static void wait(Request& request) { request.wait(); }
  [[nodiscard]] static bool is_done(Request& request) { return request.is_done(); }

 private:
  void start(Request& request, const std::string& kind, std::size_t k) {
    request = Request(std::make_unique<Operation>(*events_, kind, k));
  }

  Events* events_;
  std::vector<Request> terms_;
  std::vector<Request> sums_;
};

/// The operations of all ranks among what was done.
std::vector<std::string> operations_of(const Events& events) {
  std::vector<std::string> result;
  std::copy_if(events.done.begin(), events.done.end(), std::back_inserter(result),
               [](const std::string& each) { return !each.starts_with("taken"); });
  return result;
}

/// As the documentation has it.
std::vector<std::string> order_of(std::size_t buckets) {
  std::vector<std::string> result;
  for (std::size_t k = 0; k <= buckets; ++k) {
    if (k < buckets) result.push_back("terms " + std::to_string(k));
    if (k >= 1) result.push_back("sums " + std::to_string(k - 1));
  }
  return result;
}

TEST(BucketOrder, TheOrderIsOneWheneverGradientsAreFinalAndMessagesCome) {
  for (std::size_t buckets = 0; buckets < 8; ++buckets) {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      const Random random(seed);
      std::uint64_t draws = 0;
      Events events;
      Stages stages(events, buckets);
      BucketOrder order(buckets);
      std::size_t final = 0;
      const auto start_terms = [&](std::size_t k) {
        if (k < final) stages.start_terms(k);
        return k < final;
      };
      // Some calls in which now and then a gradient is final and a message comes, and the rest.
      for (std::uint64_t call = 0; call < seed % 40; ++call) {
        if (random.uniform(draws++) < 0.3F) final = std::min(final + 1, buckets);
        for (const std::string& each : operations_of(events)) {
          if (random.uniform(draws++) < 0.2F) events.has_come[each] = true;
        }
        order.go_on(stages, start_terms);
        EXPECT_TRUE(events.waited_for.empty());
      }
      final = buckets;
      order.finish(stages, start_terms);
      EXPECT_EQ(operations_of(events), order_of(buckets));
      EXPECT_LE(events.most_going, 2U);
      std::vector<std::string> taken;
      for (const std::string& each : events.done) {
        if (each.starts_with("taken")) taken.push_back(each);
      }
      ASSERT_EQ(taken.size(), buckets);
      for (std::size_t k = 0; k < buckets; ++k) {
        EXPECT_EQ(taken[k], "taken " + std::to_string(k));
      }
    }
  }
}

TEST(BucketOrder, LooksAtAllThatIsOnItsWayWhateverIsDue) {
  constexpr std::size_t buckets = 5;
  Events events;
  Stages stages(events, buckets);
  BucketOrder order(buckets);
  std::size_t final = 1;
  const auto go_on = [&] {
    events.looks.clear();
    order.go_on(stages, [&](std::size_t k) {
      if (k < final) stages.start_terms(k);
      return k < final;
    });
  };
  const auto expect_looks_at = [&](const std::vector<std::string>& names) {
    EXPECT_EQ(events.looks.size(), names.size());
    for (const std::string& each : names) EXPECT_GT(events.looks[each], 0) << each;
  };
  go_on();
  EXPECT_EQ(events.done, std::vector<std::string>{"terms 0"});
  go_on();  // the terms of bucket 1 are due, and their gradients are not final
  expect_looks_at({"terms 0"});
  final = 2;
  go_on();
  events.has_come["terms 0"] = true;
  go_on();
  EXPECT_EQ(events.done, (std::vector<std::string>{"terms 0", "terms 1", "sums 0"}));
  go_on();
  expect_looks_at({"terms 1", "sums 0"});
  events.has_come["sums 0"] = true;
  go_on();
  EXPECT_EQ(events.done.back(), "taken 0");
  go_on();
  expect_looks_at({"terms 1"});
}

TEST(BucketOrder, WaitsForWhatIsDueAndNothingThatHasCome) {
  Events events;
  Stages stages(events, 4);
  BucketOrder order(4);
  for (const char* each : {"terms 1", "sums 2"}) events.has_come[each] = true;
  order.finish(stages, [&](std::size_t k) {
    stages.start_terms(k);
    return true;
  });
  // There is room for the sums of bucket 2 once those of bucket 0 are taken.
  EXPECT_EQ(events.waited_for, (std::vector<std::string>{"terms 0", "sums 0", "terms 2", "sums 1",
                                                         "terms 3", "sums 3"}));
}

}  // namespace bucket_order_test
