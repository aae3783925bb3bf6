// What a range of seeds must have exercised: each path by the production counter that counts it.
#pragma once

#include <cstdint>

namespace annulus::sim {

struct RarePath {
  const char* what;
  const char* counter;
};

/// Ranges shorter than this are not judged.
constexpr std::uint64_t kSeedsForRarePaths = 40;

constexpr RarePath kRarePaths[] = {
    {"vote parked until its value came", "acceptor.votes_parked"},
    {"parked vote released", "acceptor.parked_released"},
    {"value pulled by an acceptor", "acceptor.values_pulled"},
    {"fragment pulled by an acceptor", "acceptor.fragments_pulled"},
    {"fragment pulled by a learner", "learner.fragments_pulled"},
    {"value pulled by a learner", "learner.values_pulled"},
    {"decision pulled by a learner", "learner.decisions_pulled"},
    {"vote pulled by the coordinator", "coordinator.votes_pulled"},
    {"vote sent again", "acceptor.vote_resent"},
    {"proposal repeated", "coordinator.proposals_repeated"},
    {"vote by a spare: the ring was late", "acceptor.spare_votes"},
    {"decided with a spare's vote: ring bypassed", "coordinator.decided_by_spare"},
    {"decision told by a later proposal", "coordinator.decisions_piggybacked"},
    {"stale ballot refused", "acceptor.drop_stale_ballot"},
    {"coordinator stepped down", "coordinator.stepped_down"},
    {"value recovered by Phase 1", "coordinator.values_recovered"},
    {"bytes of a recovered value pulled", "coordinator.values_pulled"},
    {"hole filled with a no-op", "coordinator.holes_filled"},
    {"no-op passed over by a learner", "learner.skipped_noop"},
    {"instance of another partition passed over", "learner.skipped_partition"},
    {"value for one or two partitions", "order.masked"},
    {"window full", "coordinator.window_full"},
    {"blocked by a learner's credit", "coordinator.credit_blocked"},
    {"decided value let go for what it takes", "acceptor.shed"},
    {"learner left the credit set", "coordinator.learners_left"},
    {"learner came back to the credit set", "coordinator.learners_back"},
    {"proposal beyond a learner's window", "learner.drop_beyond_window"},
    {"worker's ring full", "learner.back_pressure"},
    {"submit sent twice", "submit.duplicates"},
    {"submit waited for an earlier one", "submit.gaps_waited"},
    {"value submitted in several frames", "submit.fragments_waited"},
    {"value decided twice", "order.repeated_values"},
    {"submit redirected to another coordinator", "node.redirects"},
    {"frame passed on along the dissemination ring", "port.relayed"},
    {"damaged header caught", "port.drop_bad_checksum"},
    {"damaged payload caught", "port.drop_bad_payload_hash"},
    {"frame of another wire version dropped", "port.drop_bad_version"},
    {"another version spoke in a member's name", "foreigner.spoken"},
    {"link full", "network.link_full"},
    {"frame lost by one multicast receiver", "network.lost_in_multicast"},
    {"acceptor admitted anew", "order.admitted"},
    {"acceptor added by an operator", "order.acceptors_added"},
    {"acceptor taken out by an operator", "order.acceptors_removed"},
    {"replica taken out by an operator", "order.replicas_removed"},
    {"frame of another configuration dropped", "node.drop_other_epoch"},
    {"member not settled yet was asked to vote", "node.drop_unsettled"},
    {"node started again with what its disk holds", "order.restarts"},
    {"state copied for another replica", "worker.states_copied"},
    {"state of another replica installed", "worker.states_installed"},
    {"state damaged on its way and refused", "state_receiver.refused"},
    {"piece of a state pulled again", "state_receiver.chunks_pulled_again"},
    {"state asked of another replica midway", "state_receiver.changed_midway"},
    {"query dropped by a replica without state", "node.drop_query_without_state"},
    {"vote that waited for the log", "acceptor.votes_after_write"},
    {"value read from the log", "acceptor.values_from_log"},
    {"value lost by the log and mended", "acceptor.values_mended"},
    {"accept refused by a full log", "acceptor.drop_log_full"},
    {"write overtaken by a later one", "disk.overtaken"},
    {"write torn by a crash", "disk.torn"},
    {"write lost in a crash", "disk.lost_at_crash"},
    {"failed write", "disk.failed"},
    {"corrupt or misdirected block found at start", "log.damaged_blocks"},
};

}  // namespace annulus::sim
