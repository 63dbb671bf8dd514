#!/usr/bin/env bash
# The most anomalous images of a folder, and where to look in them: examples/jq_pipeline.sh STORE FOLDER [COUNT]
set -euo pipefail
store=${1:?usage: $0 STORE FOLDER [COUNT]}
folder=${2:?usage: $0 STORE FOLDER [COUNT]}
count=${3:-5}

find "$folder" -name '*.png' | sort |
    patchcli score --store "$store" --quiet --format jsonl - |
    jq -rs --argjson count "$count" \
        'sort_by(-.score)[:$count][] | [.image, .score, .peak_x, .peak_y, .nearest_image] | @tsv'
