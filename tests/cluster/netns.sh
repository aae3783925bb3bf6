#!/bin/bash
# Runs a command with a small network of its own: NODES network namespaces, each with one end e0 of
# a veth pair, the other ends joined by a bridge in a further namespace. Everything is removed when
# the command ends, however it ends. Needs root; exits with 77 and a reason otherwise.
#
# usage: netns.sh [--kernel "1 3"] NODES MTU COMMAND...
#
#   --kernel   the nodes whose kernel owns the address 10.77.0.K/24 of its e0 (default: all). A node
#              whose e0 DPDK is to drive must not be among them, or two stacks answer for it.
#
# The command finds in ANNULUS_NETNS the prefix of the namespaces: node K is "$ANNULUS_NETNS-K", the
# bridge "$ANNULUS_NETNS-bridge". Run something on node 2: ip netns exec "$ANNULUS_NETNS-2" ...
set -eu

skip() {
    echo "$1"
    exit 77
}

kernel=all
if [ "${1:-}" = --kernel ]; then
    kernel=" $2 "
    shift 2
fi
[ $# -ge 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
nodes=$1 mtu=$2
shift 2

[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip ethtool sysctl; do
    command -v "$tool" > /dev/null || skip "$tool is not installed (iproute2, ethtool, procps)"
done

export ANNULUS_NETNS="annulus$$"
bridge="$ANNULUS_NETNS-bridge"

remove() {
    trap '' INT TERM
    # A namespace outlives its name while processes run in it.
    for name in $(ip netns list | awk '{print $1}' | grep "^$ANNULUS_NETNS-" || true); do
        ip netns pids "$name" | xargs --no-run-if-empty kill -KILL 2> /dev/null || true
        ip netns delete "$name" || true
    done
}
trap remove EXIT
trap 'exit 1' INT TERM

ip netns add "$bridge" 2> /dev/null || skip "this kernel does not let us make network namespaces"
ip -n "$bridge" link add bridge0 type bridge mcast_snooping 0 2> /dev/null ||
    skip "this kernel has no bridge"
ip -n "$bridge" link set bridge0 mtu "$mtu" up
# The bridge would hand frames to iptables, which drops those with a wrong checksum silently.
ip netns exec "$bridge" sysctl -q -w net.bridge.bridge-nf-call-iptables=0 2> /dev/null || true

for k in $(seq "$nodes"); do
    node="$ANNULUS_NETNS-$k"
    ip netns add "$node"
    # No IPv6: its neighbour discovery would be the only traffic that no test asked for.
    ip netns exec "$node" sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 \
        net.ipv6.conf.default.disable_ipv6=1 2> /dev/null || true
    ip -n "$node" link add e0 mtu "$mtu" type veth peer name "port$k" mtu "$mtu" netns "$bridge" ||
        skip "this kernel has no veth pairs"
    ip -n "$bridge" link set "port$k" master bridge0 up
    ip -n "$node" link set lo up
    ip -n "$node" link set e0 up
    # veth leaves UDP checksums unfinished between kernels; a DPDK port reads what is there.
    ip netns exec "$node" ethtool -K e0 tx off > /dev/null 2>&1
    if [ "$kernel" = all ] || [ "${kernel#* "$k" }" != "$kernel" ]; then
        ip -n "$node" address add "10.77.0.$k/24" dev e0
        ip -n "$node" route add 224.0.0.0/4 dev e0
    fi
done

# Not exec: the trap has to run afterwards. In the background, so that signals reach the trap.
"$@" &
wait $!
