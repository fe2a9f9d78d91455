#!/usr/bin/env bash
# Checks the answer of `clockwork sim --from-state STATE --load 2x --slo 50ms --devices 1..8`. Serves two networks of the
# zoo from one CPU device, and saves the state under load. Asks the simulator how many devices twice the load needs. Then
# emulates fleets with this number of devices and with one device fewer, and sends them twice the load.
#     experiments/devices-suffice.sh [LOAD]      load of the one device, relative to its capacity; default: 0.7
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
load=${1:-0.7}
out=build/devices-suffice
clockwork=.venv/bin/clockwork
mkdir -p $out
server=
stop() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; server=; fi
}
trap stop EXIT

serve() { # serve ARGUMENT...: start a server and set $address
    : >$out/serve.txt
    $clockwork serve "$@" --listen 127.0.0.1:0 --http none --no-profile-cache >$out/serve.txt 2>$out/serve.log &
    server=$!
    until grep -q "is serving" $out/serve.txt; do
        kill -0 $server || { cat $out/serve.log; exit 1; }
        sleep 0.2
    done
    address=$(grep -o "127.0.0.1:[0-9]*" $out/serve.txt)
}

$clockwork zoo build $out/models squeezenet shufflenet >$out/zoo.txt
serve $out/models/squeezenet.onnx $out/models/shufflenet.onnx
$clockwork status --json --address "$address" >$out/before.json
# The rate at which single requests keep the device busy, multiplied by the load.
rate=$(.venv/bin/python - $out/before.json "$load" <<'PYTHON'
import json, statistics, sys

models = json.load(open(sys.argv[1]))["models"]
times = [next(iter(model["profiles"].values()))["infer"]["1"]["p50"] for model in models]
print(round(float(sys.argv[2]) * 1e9 / statistics.mean(times), 1))
PYTHON
)
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
