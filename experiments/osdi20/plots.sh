#!/usr/bin/env bash
# Draw the plots of README.md and docs/osdi20.md again, from new simulations: about 5 minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for figure in fig5 fig6; do
    .venv/bin/clockwork sim "experiments/osdi20/$figure.toml" --seed 1 --json "build/osdi20/$figure.json" --plots build/osdi20
done
cp build/osdi20/fig5-sweep.png build/osdi20/fig6-goodput.png build/osdi20/fig6-cold-starts.png docs/osdi20/
