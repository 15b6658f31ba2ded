#!/usr/bin/env bash
# Codec training on one and on every GPU of the machine through Ray Train, by hand:
# tests/bench/two_gpus.sh AUDIO OUT MINUTES. Weak scaling: the batch grows with the workers.
set -euo pipefail
audio=$1 out=$2 minutes=$3
export XDG_CACHE_HOME=$out/cache
mkdir -p "$out"
python3 -m distill_ray prepare "$audio" --out "$out/corpus" --json >"$out/prepare.json" 2>/dev/null
for workers in 1 auto 0; do
  python3 -m distill_ray train "$out/corpus" --out "$out/run-$workers" --name model --size base --num-workers "$workers" \
    --max-minutes "$minutes" --json >"$out/train-$workers.json" 2>"$out/stderr-$workers.log" || tail -n 30 "$out/stderr-$workers.log" "$out/run-$workers/error.log"
  python3 - "$out/train-$workers.json" "$workers" <<'P'
import json, sys
train = json.load(open(sys.argv[1]))
shown = ("audio_seconds_per_second", "best_val_loss", "epochs_completed", "elapsed_s", "exit_reason")
print(f"workers {sys.argv[2]}:", {key: train.get(key) for key in shown}, flush=True)
P
done
python3 -m distill_ray train-prior "$out/run-auto/model.distill" "$out/corpus" --max-minutes "$minutes" --json \
  >"$out/prior.json" 2>"$out/stderr-prior.log" || tail -n 30 "$out/stderr-prior.log"
cat "$out/prior.json"
