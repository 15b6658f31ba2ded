#!/usr/bin/env bash
# The codec's GPU programme, in calls that each end within 9 minutes. Written to $OUT (at most 8 files, 16 MiB
# each); run in the repository root on the GPU's machine:
#
#   tests/bench/gpu_codec.sh speed [FOLDER]             the step, its kernels, the RVQ, decoding, batch sizes
#   tests/bench/gpu_codec.sh pool JOBS                  bake-off runs, ablations and budgets over all GPUs (pool.py)
#   tests/bench/gpu_codec.sh stable FOLDER RECIPE…      stability.py: which recipes blow up (8 min for some 50,000 steps)
#   tests/bench/gpu_codec.sh scale                      weak scaling on 1, 2, 4 and 8 GPUs
#   tests/bench/gpu_codec.sh stereo FOLDER MINUTES      48 kHz stereo by the commands themselves: prepare, train, evaluate
#   tests/bench/gpu_codec.sh collect FOLDER OUT NAME    afterwards, on any CPU, of what was unpacked to OUT/NAME: Opus, ViSQOL, pictures
#
# A line of JOBS for each codec of a bake-off (whose runs share a name) and for each change of an ablation:
#
#   music-300  .bench/corpora/music 300 ours-base --looks 10
#   music-300  .bench/corpora/music 300 encodec --looks 10 --rival-lr 0.001
#   minute     .bench/corpora/music 300 ours-small:training.epochs=10000 --looks 10 --train-seconds 60
#   lr2        .bench/corpora/music 36 ours-base_lr2:training.lr=0.002 --listen 0
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
  pool)
    # What the first steps compile is no run's fault, and all that follow have it. A budget of a few seconds
    # would go without kernels, so it is one of few steps.
    for size in ${SIZES:-base}; do
      timeout 60 python3 "$bench/bakeoff.py" "$(awk '$1 !~ /^#/ { print $2; exit }' "$1")" /tmp/warm --seconds 60 --most-steps 10 --looks 1 \
        --codecs "ours-$size" --excerpts 1 --listen 0 >/dev/null 2>&1 || true
    done
    python3 "$bench/pool.py" "$1" "$out" --limit "${LIMIT:-440}"
    ;;
  stable)
    timeout 520 python3 "$bench/stability.py" "$1" /tmp/stable "${@:2}" 2>&1 | tee "$out/stable.log" || true
    cp /tmp/stable/*.json "$out/" || true
    ;;
  scale)
    gpus=$(nvidia-smi -L | wc -l)
    for ranks in 1 2 4 8; do
      [ "$ranks" -le "$gpus" ] || break
      timeout 60 python3 -m torch.distributed.run --standalone --nproc-per-node="$ranks" "$bench/weak_scaling.py" \
        "$out" --batches 48 96
    done
    ;;
  stereo)
    python3 -m distill_ray prepare "$1" --out /tmp/stereo/corpus --sample-rate 48000 --channels 2 --val-fraction 0.2
    python3 -m distill_ray train /tmp/stereo/corpus --out /tmp/stereo/run --name stereo --num-workers 0 --size base \
      --codebook-size 1024 --rvq-levels 9 --max-minutes "$2"
    python3 -m distill_ray evaluate /tmp/stereo/run/stereo.distill /tmp/stereo/corpus --json | tee "$out/stereo.json"
    ;;
  collect)
    folder=$1 place=$2/$3
    python=${PYTHON:-.venv/bin/python}
    "$python" "$bench/opus.py" "$folder" "$place"
    "$python" "$bench/listening.py" "$place"
    "$python" "$bench/pictures.py" "$place"
    ;;
  *)
    sed -n '2,21p' "$0"
    exit 2
    ;;
esac
