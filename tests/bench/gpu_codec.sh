#!/usr/bin/env bash
# The codec's GPU programme, in calls that each end within 9 minutes. Written to $OUT (at most 8 files, 16 MiB
# each); run in the repository root on the GPU's machine:
#
#   tests/bench/gpu_codec.sh speed                      the step, its kernels, the RVQ, decoding, batch sizes
#   tests/bench/gpu_codec.sh sixty FOLDER [ARG…]        60 s of ours and of each rival, or of $CODECS (--rival-lr 3e-4: EnCodec's own)
#   tests/bench/gpu_codec.sh long FOLDER CODEC [ARG…]   300 s of one codec: ours-base, encodec, dac-small, dac
#   tests/bench/gpu_codec.sh duel FOLDER…               60 s ($BUDGET) of ours ($SIZE) and of EnCodec's layout at once, on two GPUs
#   tests/bench/gpu_codec.sh stable FOLDER RECIPE…      stability.py: which recipes blow up (8 min for some 50,000 steps)
#   tests/bench/gpu_codec.sh ablate FOLDER LABEL:SETTING[,SETTING]…   36 s of ours with each change of the recipe
#   tests/bench/gpu_codec.sh adversarial FOLDER [SECONDS]   ours with the adversarial stage and without, 200 s each
#   tests/bench/gpu_codec.sh collect FOLDER OUT TAR…    afterwards, on any CPU: Opus, ViSQOL, table, pictures
#
# FOLDER is one of the three that `corpora.py` makes of Debian's warzone2100-music, sonic-pi-samples and
# gcin-voice (23, 11 and 33 MiB: carry one a call, the limit of a call is 64 MiB with the working tree):
#
#   mkdir -p .bench && cd .bench     # ignored: echo '/.bench/' >> .git/info/exclude
#   for package in warzone2100-music sonic-pi-samples gcin-voice; do
#     apt-get download $package && dpkg -x ${package}_*.deb packages
#   done
#   cd .. && .venv/bin/python tests/bench/corpora.py .bench/packages .bench/corpora
#
# The GPU's machine has torch and transformers but no soundfile and no vector-quantize-pytorch; as wheels for
# its Python 3.12 in .whl (2 MiB, carried too):
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#     --platform manylinux_2_26_x86_64 -d .whl soundfile==0.14.0 cffi pycparser \
#     vector-quantize-pytorch==1.32.0 einx frozendict loguru torch-einops-utils
#
# ViSQOL needs a compiled libsvm, so it is not run there: reconstructions come back and `collect` scores them.
set -euo pipefail
phase=$1
shift
out=${OUT:-out}
bench=$(dirname "$0")
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="/tmp/site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -d .whl ] && [ ! -d /tmp/site ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site .whl/*.whl
fi

# bake NAME FOLDER SECONDS LIMIT CODEC ARG…: one codec, whose row and reconstructions become $out/NAME-CODEC.tar.
# A rival that fails or runs over its limit must not take the others' results along.
bake() {
  local name=$1 folder=$2 seconds=$3 limit=$4 codec=$5
  shift 5
  local work=/tmp/bake/$name
  timeout "$limit" python3 "$bench/bakeoff.py" "$folder" "$work" --seconds "$seconds" --codecs "$codec" "$@" \
    2>&1 | tee "/tmp/$name-$codec.log" || echo "$codec failed: $(tail -n 1 "/tmp/$name-$codec.log")"
  if [ -f "$work/row-$codec.json" ]; then
    tar -C "$work" -cf "$out/$name-$codec.tar" "row-$codec.json" "heard/$codec"
    tar -C "$work" -cf "$out/$name-original.tar" heard/original
  fi
}

case $phase in
  speed)
    # Each part leaves its file when it is done; what the limit cuts off is only the last.
    timeout 200 python3 "$bench/step_time.py" "$out" base small --batches 96 192 || echo "step_time failed"
    timeout 90 python3 "$bench/rvq_step.py" --out "$out/rvq_step.json" || echo "rvq_step failed"
    timeout 120 python3 "$bench/realtime.py" --device cuda --seconds 30 --rounds 5 --stream \
      --out "$out/realtime.json" || echo "realtime failed"
    if [ $# -ge 1 ]; then # a corpus folder too: throughput and peak memory by batch size
      for batch in 16 48 96 192; do
        timeout 30 python3 "$bench/bakeoff.py" "$1" "/tmp/bake/batch-$batch" --seconds 8 --looks 2 --val-seconds 5 \
          --codecs ours-base --batch $batch --excerpts 2 --excerpt-seconds 2 --listen 0 || echo "batch $batch failed"
      done
      tar -C /tmp/bake -cf "$out/batches.tar" $(cd /tmp/bake && ls batch-*/row-*.json)
    fi
    ;;
  sixty)
    name=$(basename "$1")-60
    for codec in ${CODECS:-ours-base encodec dac-small dac}; do
      bake "$name" "$1" 60 130 $codec "${@:2}"
    done
    ;;
  long)
    folder=$1 codec=$2
    shift 2
    bake "$(basename "$folder")-300" "$folder" 300 530 "$codec" "$@"
    ;;
  duel)
    budget=${BUDGET:-60}
    for side in 0 1; do
      codec=ours-${SIZE:-base} given=()
      if [ $side = 1 ]; then codec=encodec given=(--rival-lr 0.001); fi
      (
        export CUDA_VISIBLE_DEVICES=$side
        for folder in "$@"; do
          bake "$(basename "$folder")-$budget-$side" "$folder" "$budget" $((budget + 70)) $codec "${given[@]}"
        done
      ) &
    done
    wait
    # One file for each folder, since only eight come back.
    for folder in "$@"; do
      name=$(basename "$folder")-$budget kept=()
      for work in "/tmp/bake/$name-0" "/tmp/bake/$name-1"; do
        if ls "$work"/row-*.json >/dev/null 2>&1; then kept+=(-C "$work" $(cd "$work" && ls -d row-*.json heard)); fi
      done
      rm -f "$out/$name"-[01]-*.tar
      if [ ${#kept[@]} -gt 0 ]; then tar -cf "$out/$name.tar" "${kept[@]}"; fi
    done
    ;;
  stable)
    timeout 520 python3 "$bench/stability.py" "$1" /tmp/stable "${@:2}" 2>&1 | tee "$out/stable.log" || true
    cp /tmp/stable/*.json "$out/" || true
    ;;
  ablate)
    folder=$1
    shift
    # What the first steps compile and load is no recipe's fault.
    timeout 60 python3 "$bench/bakeoff.py" "$folder" /tmp/bake/warm --seconds 2 --looks 1 --excerpts 1 --listen 0 \
      --codecs ours-base:training.max_minutes=1 >/dev/null 2>&1 || true
    timeout "${LIMIT:-520}" python3 "$bench/bakeoff.py" "$folder" /tmp/bake/ablate --seconds "${BUDGET:-36}" --looks 6 \
      --listen 0 --codecs "${@/#/ours-base_}" || echo "ablation failed"
    tar -C /tmp/bake/ablate -cf "$out/ablation.tar" $(cd /tmp/bake/ablate && ls row-*.json)
    ;;
  adversarial)
    seconds=${2:-200}
    bake "$(basename "$1")-$seconds" "$1" "$seconds" 265 ours-base
    bake "$(basename "$1")-$seconds" "$1" "$seconds" 265 ours-base_adversarial --set adversarial.enabled=true
    ;;
  collect)
    folder=$1 place=$2
    shift 2
    mkdir -p "$place"
    for archive in "$@"; do tar -C "$place" -xf "$archive"; done
    python=${PYTHON:-.venv/bin/python}
    "$python" "$bench/opus.py" "$folder" "$place"
    "$python" "$bench/listening.py" "$place"
    "$python" "$bench/pictures.py" "$place"
    ;;
  *)
    sed -n '2,14p' "$0"
    exit 2
    ;;
esac
