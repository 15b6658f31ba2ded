#!/usr/bin/env bash
# The main job from recordings to generated audio: examples/demo.sh BIN OUT MINUTES [CORPUS]
# MINUTES are the prior's, whose training pays most; the codec has a third of them besides.
# BIN holds distill-ray; without CORPUS a small corpus of instruments is synthesised. `make demo` calls this.
set -euo pipefail
bin=$1 out=$2 minutes=$3 corpus=${4:-}
mkdir -p "$out"
if [ -z "$corpus" ]; then
  corpus=$out/recordings
  [ -d "$corpus" ] || "$bin/python" "$(dirname "$0")/synthesise.py" "$corpus"
fi
run=$out/run
touch "$out/.distill-ray-demo" # what `make clean` looks for
set -x
"$bin/distill-ray" prepare "$corpus" --out "$out/corpus"
if [ -e "$run" ]; then # the model of the last demo is kept once; only runs are moved and removed
  for each in "$run" "$run.before"; do
    if [ -e "$each" ] && { [ -L "$each" ] || [ ! -f "$each/run.toml" ]; }; then
      echo "$each is no run of distill-ray; move it, or give another folder for the demo" >&2
      exit 1
    fi
  done
  rm -rf "$run.before"
  mv "$run" "$run.before"
fi
"$bin/distill-ray" train "$out/corpus" --out "$run" --name demo --num-workers 2 \
  --max-minutes "$(awk "BEGIN { print $minutes / 3 }")"
"$bin/distill-ray" train-prior "$run/demo.distill" "$out/corpus" --num-workers 2 --max-minutes "$minutes"
"$bin/distill-ray" evaluate "$run/demo.distill" "$out/corpus"
"$bin/distill-ray" generate "$run/demo.distill" -n 2 -d 5 --seed 1 -o "$out/generated" --overwrite
"$bin/distill-ray" info "$run/demo.distill"
