#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Two ranks of Open MPI on two hosts that are network namespaces of this one, joined by a link of limited
# bandwidth: what a step costs with each wire, and what goes over the link. Needs root, iproute2, Open
# MPI and python3. For docs/distributed.md.
#
#     two_hosts.sh RANKS_OPENMPI MEGABITS [OPTIONS OF ranks]
set -euo pipefail
program=$(realpath "$1") megabits=$2
shift 2
network=10.99.0 folder=$(mktemp -d)
first=us-first-$$ second=us-second-$$

clean_up() {
  ip netns del "$first" 2>/dev/null || true
  ip netns del "$second" 2>/dev/null || true  # and with it the link
  rm -rf "$folder"
}
trap clean_up EXIT

ip netns add "$first"
ip netns add "$second"
ip link add wire netns "$first" type veth peer name wire netns "$second"
number=0
for host in "$first" "$second"; do
  number=$((number + 1))
  ip -n "$host" addr add "$network.$number/24" dev wire
  ip -n "$host" link set lo up
  ip -n "$host" link set wire up
  # As many bytes at once as the link carries in 2 ms, and at least a packet of 64 KiB.
  burst=$((megabits * 250 > 65536 ? megabits * 250 : 65536))
  ip netns exec "$host" tc qdisc add dev wire root tbf rate "${megabits}mbit" burst "$burst" latency 50ms
done

# What the link carries one way while it carries as much the other way, without MPI.
cat >"$folder/both_ways.py" <<'PYTHON'
import socket, sys, threading, time
address, is_server, size = (sys.argv[1], 5000), sys.argv[2] == "server", int(sys.argv[3])
if is_server:
    peer, _ = socket.create_server(address).accept()
else:
    for _ in range(100):
        try:
            peer = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
start = time.perf_counter()
sender = threading.Thread(target=peer.sendall, args=(bytes(size),))
sender.start()
left = size
while left:
    left -= len(peer.recv(min(left, 1 << 20)))
sender.join()
if is_server:
    print(f"{8e-6 * size / (time.perf_counter() - start):.1f}")
PYTHON
size=$((megabits * 250000))  # two seconds
ip netns exec "$second" python3 "$folder/both_ways.py" "$network.1" client "$size" &
link=$(ip netns exec "$first" python3 "$folder/both_ways.py" "$network.1" server "$size")
wait $!
echo "A link of $megabits Mbit/s, which carries $link Mbit/s of TCP each way at once."

# In place of ssh: `enter HOST COMMAND`. Open MPI knows hosts apart by their names.
cat >"$folder/enter" <<SH
#!/bin/sh
shift
exec ip netns exec $second unshare --uts sh -c "hostname $second; \$*"
SH
chmod +x "$folder/enter"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ip netns exec "$first" unshare --uts sh -c "hostname $first; exec \"\$@\"" sh \
  mpirun.openmpi -n 2 --host "$network.1,$network.2" --mca plm_rsh_agent "$folder/enter" \
  --mca btl tcp,self --mca btl_tcp_if_include "$network.0/24" --mca oob_tcp_if_include "$network.0/24" \
  "$program" --interface wire --link "$link" "$@"
