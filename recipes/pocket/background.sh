#!/usr/bin/env bash
# Go on training the shipped weights on two cores, behind everything else, until it is stopped.
#
#   bash recipes/pocket/background.sh [STAGE...]       redecode, judge, stable_diffusion, unet by default
#
# Each stage gets MINUTES (60) of one core, two stages at a time. Started again, it goes on. The joint
# space, the text tower and the latents stay, so each stage can be exported alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OFFBEAT_POCKET_WORK=${OFFBEAT_POCKET_WORK:-$HOME/.cache/offbeat-pocket} OFFBEAT_POCKET_DEVICE=cpu
export OFFBEAT_POCKET_SCALE=${OFFBEAT_POCKET_SCALE:-0.14} OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
export PYTHONPATH=$PWD/src:$PWD:${PYTHONPATH:-} HF_HUB_OFFLINE=1
work=$OFFBEAT_POCKET_WORK python=${PYTHON:-python3}
[ $# -gt 0 ] || set -- redecode judge stable_diffusion unet
mkdir -p "$work"
[ -f "$work/pictures.pt" ] || "$python" -m recipes.pocket.data --work "$work"
[ -f "$work/whitened.pt" ] || "$python" -m recipes.pocket.seeds --work "$work"
printf '%s\n' "$@" | xargs -P 2 -I{} sh -c \
    "nice -n 19 '$python' -m recipes.pocket.train {} --minutes ${MINUTES:-60} >> '$work'/{}.log 2>&1"
