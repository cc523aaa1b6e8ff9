#!/usr/bin/env bash
# Make pocket from nothing: data, every stage, the checkpoint, sheets and figures.
set -euo pipefail
cd "$(dirname "$0")/../.."
python -m recipes.pocket.data
for stage in judge autoencoder teacher text vision cache redecode prior unet \
    stable_diffusion ip_adapter; do
    python -m recipes.pocket.train "$stage"
done
python -m recipes.pocket.export
python -m recipes.pocket.sheets --all
python -m recipes.pocket.sheets --all --form stable_diffusion
python -m recipes.pocket.evaluate
