#!/usr/bin/env bash
# All of the paper's experiments, one after the other; results and plots go to build/osdi20.
#     experiments/osdi20/all.sh [--quick]     --quick leaves out figure 9, which takes about a quarter of an hour
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=build/osdi20
clockwork=.venv/bin/clockwork
for figure in fig5 fig5-startup fig6 fig7 fig8 fig11 fig9; do
    if [[ $figure == fig9 && ${1:-} == --quick ]]; then
        continue
    fi
    $clockwork sim experiments/osdi20/$figure.toml --seed 1 --json $out/$figure.json --plots $out
done
