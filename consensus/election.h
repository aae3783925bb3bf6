// The election role: notices that the coordinator has fallen silent, makes sure that others notice
// it too, and says when this node should run Phase 1. Pure; beside the acceptor, on its core.
//
// Rules:
// - Safety is none of its business: Phase 1 keeps any two coordinators apart. It decides only when
//   one is started, from times and nothing else.
// - A coordinator promises when it will be heard again: kBusySilence after a proposal, or what its
//   decision says (a heartbeat). It is suspected once that is over by the slack: twice the worst
//   lateness seen lately, but at most a few times what a takeover takes. Waiting any longer for one
//   that comes back would cost more than doing without it. So the timeout follows the network and
//   the hosts; none is fixed.
// - Time in which this node did not run does not count. Whoever finds its own timer late knows that
//   it was absent, and takes nobody's silence for a death.
// - Before it raises a ballot, a node asks whether a majority misses the coordinator as well ("A
//   Raft leader must be missed by a majority": PreVote, Ongaro's thesis, section 9.6). One that is
//   cut off, or slow, disturbs nobody.
// - Nodes that follow the coordinator in the configuration's circular order suspect it one after
//   another, a slack apart: the first has settled it before the second would begin.
// - Who asks for promises is waited for once, as long as an idle coordinator may be silent.
#pragma once

#include <cstdint>

#include "consensus/effects.h"
#include "consensus/latency.h"
#include "consensus/port.h"
#include "consensus/ring.h"
#include "dataplane/counters.h"

namespace annulus::consensus {

enum class ElectionCounter : std::uint8_t {
  kSuspected,    // the coordinator was late; the others were asked
  kRefused,      // somebody hears it
  kStarted,      // a majority misses it: Phase 1 was begun
  kPreVotes,     // given to others
  kHeardAgain,   // a coordinator that was taken for dead
  kAbsences,     // times this node did not run for long
  kDropPreVote,  // from a stranger, or of an earlier question
  kCount,
};

class Election {
 public:
  /// `promised`: by an acceptor that starts again.
  Election(const Configuration& configuration, std::uint32_t self, Ballot promised);

  /// `sender` was heard as the coordinator of `ballot`, and promises the next word within `within`.
  void on_coordinator(NodeId sender, Ballot ballot, Nanos within, Nanos now);
  /// The acceptor promised to `ballot`, whose coordinator runs Phase 1.
  void on_promised(Ballot ballot, Nanos now);
  void on_pre_vote(const Received& in, Nanos now, Effects& effects);
  void on_pre_vote_answer(const Received& in, Nanos now);
  /// The node's configuration has changed; `self` is its place there.
  void on_configuration(std::uint32_t self);

  /// Once a turn, after all input was read. `leads`: this node runs Phase 1 or coordinates. `able`:
  /// it could. True: it should run Phase 1 now.
  bool tick(bool leads, Nanos now, Effects& effects, bool able = true);
  Nanos deadline() const { return deadline_; }

  /// How late the coordinator may be.
  Nanos slack() const;
  dataplane::Counters<ElectionCounter>& counters() { return counters_; }

 private:
  std::uint32_t rank() const;
  void on_told(Ballot ballot, Nanos now);
  void expect(Nanos within, Nanos now);
  void note_takeover(Nanos took);
  void ask(Effects& effects);

  const Configuration& configuration_;
  std::uint32_t self_;
  Attention attention_;
  Ballot ballot_;     // the highest heard of; its coordinator is watched
  Ballot deposed_{};  // the one missed last
  bool leads_ = false;
  bool start_ = false;
  // Times are by attention_ from here on.
  Nanos heard_ = 0;
  Nanos within_;  // promised then
  Nanos deposed_due_ = 0;
  WorstDelay lateness_;       // of the coordinator's words
  Nanos takeover_;            // running mean: from a promise to the first word of who asked for it
  bool taking_over_ = false;  // that word is to come
  Nanos ask_from_ = 0;
  std::uint32_t questions_ = 0;  // asked in a row
  std::uint32_t question_ = 0;   // the last
  AcceptorSet missed_by_{};      // the answers to it
  Nanos deadline_ = 0;           // 0: nothing was done yet
  dataplane::Counters<ElectionCounter> counters_;
};

}  // namespace annulus::consensus
