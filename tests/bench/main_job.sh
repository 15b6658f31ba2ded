#!/usr/bin/env bash
# The main job on the machine at hand, by hand: tests/bench/main_job.sh AUDIO OUT MINUTES [WORKERS]
# Prints the JSON of every step, so that figures are read and not retyped. Without a GPU it takes the same path.
set -euo pipefail
audio=$1 out=$2 minutes=$3 workers=${4:-auto}
job() { python3 -m distill_ray "$@" 2> >(tee -a "$out/stderr.log" | tail -n 4 >&2); }
mkdir -p "$out"
export XDG_CACHE_HOME=$out/cache
python3 -m distill_ray doctor --json >"$out/doctor.json" || true
job prepare "$audio" --out "$out/corpus" --json >"$out/prepare.json"
job train "$out/corpus" --out "$out/run" --name model --size base --num-workers "$workers" \
  --max-minutes "$minutes" --json >"$out/train.json"
job train-prior "$out/run/model.distill" "$out/corpus" --num-workers "$workers" \
  --max-minutes "$minutes" --json >"$out/prior.json"
job evaluate "$out/run/model.distill" "$out/corpus" --json >"$out/evaluate.json"
time job generate "$out/run/model.distill" -n 4 -d 10 --seed 1 -o "$out/generated" --json >"$out/generate.json"
python3 - "$out" <<'P'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
train, prior = (json.loads((out / f"{name}.json").read_text()) for name in ("train", "prior"))
print("codec:", {k: train[k] for k in ("audio_seconds_per_second", "best_val_loss", "best_epoch", "epochs_completed", "elapsed_s")})
print("prior:", {k: prior[k] for k in ("best_perplexity", "bits_per_second", "epochs_trained", "elapsed_s")})
P
