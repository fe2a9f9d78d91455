#!/usr/bin/env bash
# The same scenario live and simulated. Serves two networks of the zoo, plays experiments/live.toml against them at 0.8
# times their measured capacity, simulates it with the measured times, and prints both results.
#     experiments/sim-vs-live.sh [LOAD]      default: 0.8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=build/sim-vs-live
source experiments/live-server.sh
serve_networks "${1:-0.8}"
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
