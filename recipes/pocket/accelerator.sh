#!/usr/bin/env bash
# Make pocket from nothing on one accelerator, in about nine minutes: every stage side by side, each
# waiting for what it needs of the others. Killed and started again, it goes on.
#
#   bash recipes/pocket/accelerator.sh OUT [SHARE]     SHARE of the nine minutes, 1 by default
#
# OUT gets the checkpoint and the seeds to go on from, every file under 16 MB, and the logs. The
# drawings (recipes.pocket.data) must be in OFFBEAT_POCKET_WORK already: they want npm.
set -euo pipefail
out=$(realpath -m "$1") share=${2:-1}
cd "$(dirname "$0")/../.."
export OFFBEAT_POCKET_WORK=${OFFBEAT_POCKET_WORK:-$PWD/work} OFFBEAT_POCKET_WORKERS=${OFFBEAT_POCKET_WORKERS:-8}
export PYTHONPATH=$PWD/src:$PWD:${PYTHONPATH:-} TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} HF_HUB_OFFLINE=1
work=$OFFBEAT_POCKET_WORK python=${PYTHON:-python3}
mkdir -p "$work" "$out/logs"

stage() { "$python" -m recipes.pocket.train "$1" --share "$share" > "$out/logs/$1.log" 2>&1; }

jobs=()
stage autoencoder & jobs+=($!)
(stage teacher && stage text && stage prior) & jobs+=($!)
(stage judge && stage vision) & jobs+=($!)
stage unet & jobs+=($!)
stage stable_diffusion & jobs+=($!)
for job in "${jobs[@]}"; do
    wait "$job" || { tail -n 3 "$out"/logs/*.log; exit 1; }
done
stage redecode
"$python" -m recipes.pocket.export --out "$out/checkpoint"
cp -r "$work/resume" "$out/seeds"
