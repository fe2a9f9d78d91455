#!/usr/bin/env bash
# Run all experiments of the paper in both calibrations of ResNet-50; results and plots go to build/osdi20/PROFILE.
#     experiments/osdi20/all.sh [--quick]     --quick leaves out figure 9, which takes a quarter of an hour in each calibration
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for profile in resnet50-v100 resnet50-v100-startup; do
    for figure in fig5 fig6 fig7 fig8 fig11 fig9; do
        if [[ $figure == fig9 && ${1:-} == --quick ]]; then
            continue
        fi
        out=build/osdi20/$profile
        .venv/bin/clockwork sim experiments/osdi20/$figure.toml --profile $profile --seed 1 \
            --json $out/$figure.json --plots $out
    done
done
