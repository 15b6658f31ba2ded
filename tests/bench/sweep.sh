#!/usr/bin/env bash
# Searches compared, by hand: tests/bench/sweep.sh AUDIO FEW OUT EPOCHS GPUS_PER_TRIAL [plans|rule]
# AUDIO: half an hour or more; FEW: minutes. Plan grid against plan depth on AUDIO, and on FEW, with re-seeding off so that large
# codebooks collapse, the health rule on against off. Writes each search's JSON, log and trials.parquet to OUT.
set -uo pipefail
audio=$1 few=$2 out=$3 epochs=$4 share=$5 only=${6:-}
scratch=$(mktemp -d)
export XDG_CACHE_HOME=$scratch/cache
mkdir -p "$out"
for name in audio few; do
  python3 -m distill_ray prepare "${!name}" --out "$scratch/$name" --json >"$out/prepare-$name.json" 2>"$out/prepare-$name.log"
done
printf '[model]\nreseed_threshold = 0.0\n' >"$scratch/collapse.toml"

search() { # NAME CORPUS OPTION…
  local name=$1 corpus=$2
  shift 2
  python3 -m distill_ray tune "$scratch/$corpus" --out "$scratch/$name" --name "$name" --gpus-per-trial "$share" --max-kbps 8 "$@" --json \
    >"$out/$name.json" 2>"$out/$name.log" || echo "$name: exit $?"
  cp "$scratch/$name/trials.parquet" "$out/$name.parquet" 2>/dev/null
  python3 - "$out/$name.json" "$name" <<'P'
import json, sys
try:
    found = json.load(open(sys.argv[1]))
except ValueError:
    sys.exit(f"{sys.argv[2]}: no document")
best = found.get("best") or {}
print(f"== {sys.argv[2]}: best {best.get('trial')} K {best.get('codebook_size')} Q {best.get('rvq_levels')} objective {best.get('objective')} "
      f"{best.get('kbps')} kbps; {found.get('gpu_seconds')} GPU seconds, {found.get('elapsed_s')} s, {found.get('exit_reason')}")
for trial in found.get("trials", []):
    print("  ", {key: trial.get(key) for key in ("id", "state", "stop_reason", "epochs", "val_loss", "mel", "worst_utilization", "gpu_seconds", "elapsed_s")})
for row in found.get("pareto", []):
    print("   front", {key: row.get(key) for key in ("trial", "rvq_levels", "kbps", "objective")}, flush=True)
P
}

if [ "$only" != rule ]; then
  search grid audio --codebook-sizes 64,256,1024 --rvq-levels 2,4,8 --plan grid --epochs "$epochs"
  search depth audio --codebook-sizes 64,256,1024 --rvq-levels 2,4,8 --plan depth --epochs "$epochs"
fi
if [ "$only" != plans ]; then
  for rule in off on; do
    stop=$([ $rule = off ] && echo --no-health-stop || true)
    search rule-$rule few --codebook-sizes 64,256,1024,4096 --rvq-levels 8 --config "$scratch/collapse.toml" --epochs "$epochs" $stop
  done
fi
rm -rf "$scratch"
