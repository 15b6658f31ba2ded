#!/usr/bin/env bash
# How many trainings one GPU takes at once: tests/bench/packing.sh AUDIO OUT MINUTES SIZE COUNT…
# Prints the seconds of audio a second of each and of all together.
set -euo pipefail
audio=$1 out=$2 minutes=$3 size=$4
shift 4
export XDG_CACHE_HOME=$out/cache
mkdir -p "$out"
python3 -m distill_ray prepare "$audio" --out "$out/corpus" --json >/dev/null 2>&1
for count in "$@"; do
  for each in $(seq "$count"); do
    CUDA_VISIBLE_DEVICES=0 python3 -m distill_ray train "$out/corpus" --out "$out/run-$size-$count-$each" --name m --size "$size" \
      --num-workers 0 --codebook-size 1024 --rvq-levels 8 --seed "$each" --max-minutes "$minutes" --json \
      >"$out/$size-$count-$each.json" 2>"$out/$size-$count-$each.log" &
  done
  wait
  python3 - "$out" "$size" "$count" <<'P'
import json, sys
out, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
rates = [json.load(open(f"{out}/{size}-{count}-{n}.json"))["audio_seconds_per_second"] for n in range(1, count + 1)]
print(f"{size}: {count} at once: {[round(r) for r in rates]}, together {sum(rates):.0f}", flush=True)
P
  rm -rf "$out"/run-*
done
