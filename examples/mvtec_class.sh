#!/usr/bin/env bash
# From an MVTec AD class to anomaly maps: examples/mvtec_class.sh ./mvtec/grid [OUTPUT]
set -euo pipefail
data=${1:?usage: $0 DATA [OUTPUT]}
out=${2:-$(basename "$data")-results}
mkdir -p "$out"
export PATCHCLI_STORE=$out/store.zarr

patchcli train "$data" --minutes "${MINUTES:-10}"
patchcli embed
patchcli score --out "$out/maps" --overlay --format csv > "$out/scores.csv"
patchcli eval --format csv | tee "$out/auroc.csv"
