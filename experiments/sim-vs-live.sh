#!/usr/bin/env bash
# The same scenario live and simulated. Serves two networks of the zoo, plays experiments/live.toml against them at 0.8
# times their measured capacity, simulates it with the measured times, and prints both results.
#     experiments/sim-vs-live.sh [LOAD]      default: 0.8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
load=${1:-0.8}
out=build/sim-vs-live
clockwork=.venv/bin/clockwork
mkdir -p $out
$clockwork zoo build $out/models squeezenet shufflenet >$out/zoo.txt
$clockwork serve $out/models/squeezenet.onnx $out/models/shufflenet.onnx --listen 127.0.0.1:0 --http none --no-profile-cache \
    >$out/serve.txt 2>$out/serve.log &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
touch $out/serve.txt
until grep -q "is serving" $out/serve.txt; do
    kill -0 $server || { cat $out/serve.log; exit 1; }
    sleep 0.2
done
address=$(grep -o "127.0.0.1:[0-9]*" $out/serve.txt)
$clockwork status --json --address "$address" >$out/before.json
# LOAD times the rate at which single requests keep the device busy.
rate=$(.venv/bin/python - $out/before.json "$load" <<'PYTHON'
import json, statistics, sys

models = json.load(open(sys.argv[1]))["models"]
times = [next(iter(model["profiles"].values()))["infer"]["1"]["p50"] for model in models]
print(round(float(sys.argv[2]) * 1e9 / statistics.mean(times), 1))
PYTHON
)
sed "s/^rate = .*/rate = $rate/" experiments/live.toml >$out/live.toml
$clockwork load-test "$address" $out/live.toml --json $out/live.json
$clockwork status --json --address "$address" >$out/state.json
$clockwork sim $out/live.toml --from-state $out/state.json --json $out/sim.json
.venv/bin/python - $out/live.json $out/sim.json <<'PYTHON'
import json, sys

live, sim = (json.load(open(path))["rows"][0] for path in sys.argv[1:])
for name in ("offered_rps", "goodput_rps", "latency_ms_p50", "latency_ms_p99"):
    print(f"{name:16} live {live[name]:9.3f}   simulated {sim[name]:9.3f}   ratio {sim[name] / live[name]:.3f}")
PYTHON
