#!/usr/bin/env bash
# Small searches for a machine without a GPU, by hand: tests/bench/sweep_cpu.sh AUDIO OUT
# On the recordings in AUDIO (sonic-pi-samples: some ten minutes a search on two cores): the health rule off and on with re-seeding off,
# so that a large codebook collapses, and plan grid against plan depth. Leaves each search's JSON and log in OUT.
set -euo pipefail
audio=$1 out=$2
mkdir -p "$out"
corpus=$out/corpus
python3 -m distill_ray prepare "$audio" --out "$corpus" --sample-rate 22050 2>"$out/prepare.log"
cat >"$out/plans.toml" <<'T'
[corpus]
sample_rate = 22050
[model]
width = 32
encoder_blocks = 1
decoder_blocks = 1
mlp_ratio = 2
latent_dim = 32
n_fft = 512
hop = 128
[training]
batch_size = 16
window_seconds = 0.25
warmup_steps = 20
val_seconds = 10.0
lr = 0.002
T
sed 's/^lr = .*/lr = 0.006/; s/^\[model\]/[model]\nreseed_threshold = 0.0/' "$out/plans.toml" >"$out/collapse.toml"

search() { # NAME OPTION…
  local name=$1
  shift
  python3 -m distill_ray tune "$corpus" --out "$out/$name" --name "$name" "$@" --json >"$out/$name.json" 2>"$out/$name.log"
  python3 - "$out/$name.json" <<'P'
import json, sys

found = json.load(open(sys.argv[1]))
best = found["best"]
spent, steps = (sum(trial[key] for trial in found["trials"]) for key in ("elapsed_s", "steps"))
print(f"{found['plan']}: best {best['trial']} {best['objective']}; {spent:.0f} s of trials, {steps} steps, {found['elapsed_s']:.0f} s")
for trial in found["trials"]:
    print("  ", *(trial[key] for key in ("id", "state", "stop_reason", "epochs", "val_loss", "worst_utilization", "elapsed_s")))
P
}

rule=(--codebook-sizes 64,128,256 --rvq-levels 4 --max-kbps 8 --epochs 8 --config "$out/collapse.toml")
plans=(--codebook-sizes 64,256 --rvq-levels 2,4,8 --max-kbps 3 --epochs 4 --config "$out/plans.toml")
search rule-off "${rule[@]}" --no-health-stop
search rule-on "${rule[@]}"
search grid "${plans[@]}" --plan grid
search depth "${plans[@]}" --plan depth
