# Functions of the experiments that serve two networks of the zoo from one CPU device. To be sourced by a script that has
# set $out, a directory for its files.
clockwork=.venv/bin/clockwork
server=

stop() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; server=; fi
}
trap stop EXIT

serve() { # serve ARGUMENT...: start a server and set $address
    : >"$out"/serve.txt
    $clockwork serve "$@" --listen 127.0.0.1:0 --http none --no-profile-cache >"$out"/serve.txt 2>"$out"/serve.log &
    server=$!
    until grep -q "is serving" "$out"/serve.txt; do
        kill -0 $server || { cat "$out"/serve.log; exit 1; }
        sleep 0.2
    done
    address=$(grep -o "127.0.0.1:[0-9]*" "$out"/serve.txt)
}

serve_networks() { # serve_networks LOAD: also set $rate, LOAD times the rate at which single requests keep the device busy
    mkdir -p "$out"
    $clockwork zoo build "$out"/models squeezenet shufflenet >"$out"/zoo.txt
    serve "$out"/models/squeezenet.onnx "$out"/models/shufflenet.onnx
    $clockwork status --json --address "$address" >"$out"/before.json
    rate=$(.venv/bin/python - "$out"/before.json "$1" <<'PYTHON'
import json, statistics, sys

models = json.load(open(sys.argv[1]))["models"]
times = [next(iter(model["profiles"].values()))["infer"]["1"]["p50"] for model in models]
print(round(float(sys.argv[2]) * 1e9 / statistics.mean(times), 1))
PYTHON
    )
}
