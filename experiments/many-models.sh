#!/usr/bin/env bash
# Serves 4,026 models from 6 workers with an emulated device each, plays the compressed trace of experiments/many-models.toml
# against them, and simulates the same. The devices have memory for about a fifth of the models.
#     experiments/many-models.sh [LOAD]      multiple of the rates; default: 1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
load=${1:-1}
out=build/many-models
clockwork=.venv/bin/clockwork
mkdir -p $out
pids=()
stop() { kill "${pids[@]}" 2>/dev/null || true; wait "${pids[@]}" 2>/dev/null || true; }
trap stop EXIT

: >$out/controller.log
$clockwork controller resnet50-v100:4026 --workers 6 --listen 127.0.0.1:0 --worker-listen 127.0.0.1:0 --http none \
    --no-profile-cache >$out/controller.txt 2>$out/controller.log &
controller=$!
pids+=($controller)
until found=$(sed -n 's/.*listening for clients on \(.*\), for workers on \(.*\)/\1 \2/p' $out/controller.log) && [ -n "$found" ]; do
    kill -0 $controller || { cat $out/controller.log; exit 1; }
    sleep 0.2
done
read -r address workers <<<"$found"
for number in 1 2 3 4 5 6; do
    $clockwork worker --emulate 1 --profile resnet50-v100 --controller "$workers" --name "w$number" 2>"$out/w$number.log" &
    pids+=($!)
done
begin=$SECONDS
until grep -q "is serving" $out/controller.txt; do
    kill -0 $controller || { cat $out/controller.log; exit 1; }
    sleep 0.2
done
echo "4,026 models are served $((SECONDS - begin)) s after the workers started"
$clockwork load-test "$address" experiments/many-models.toml --load "${load}x" --generated --json $out/live.json
$clockwork status --address "$address" | sed -n 1,20p
stop
pids=()
echo "== simulated"
$clockwork sim experiments/many-models.toml --load "${load}x" --json $out/sim.json
