#!/usr/bin/env bash
# Checks the answer of `clockwork sim --from-state STATE --load 2x --slo 50ms --devices 1..8`. Serves two networks of the
# zoo from one CPU device, and saves the state under load. Asks the simulator how many devices twice the load needs. Then
# emulates fleets with this number of devices and with one device fewer, and sends them twice the load.
#     experiments/devices-suffice.sh [LOAD]      load of the one device, relative to its capacity; default: 0.7
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=build/devices-suffice
source experiments/live-server.sh
serve_networks "${1:-0.7}"
sed "s/^rate = .*/rate = $rate/; s/^duration_s = .*/duration_s = 65/" experiments/live.toml >$out/load.toml
sed "s/^rate = .*/rate = $rate/" experiments/live.toml >$out/check.toml

echo "== the usual load: one CPU device, $rate requests/s, SLO 250 ms"
$clockwork load-test "$address" $out/load.toml --json $out/live.json
$clockwork status --json --address "$address" >$out/state.json
stop

echo "== simulated: twice the load, SLO 50 ms, 1 to 8 devices"
$clockwork sim --from-state $out/state.json --load 2x --slo 50ms --devices 1..8 --json $out/sim.json | tee $out/sim.txt
devices=$(sed -n 's/^\([0-9]*\) devices\{0,1\} suffices\{0,1\}.*/\1/p' $out/sim.txt)
[ -n "$devices" ] || exit 1

for count in $((devices - 1)) "$devices"; do
    [ "$count" -ge 1 ] || continue
    echo "== emulated: $count devices, twice the load, SLO 50 ms"
    serve --emulate "$count" --profile $out/state.json
    $clockwork load-test "$address" $out/check.toml --load 2x --slo 50ms --generated --json "$out/emulated-$count.json"
    stop
done
