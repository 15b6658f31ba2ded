#!/usr/bin/env bash
# The main job on Debian's sonic-pi-samples (CC0, 165 lossless files, 324 s): examples/sonic_pi.sh OUT [MINUTES]
# Needs apt-get and dpkg to fetch the package (any Debian or Ubuntu), and distill-ray on the PATH.
# On a GPU 2 minutes do; on two CPU cores give it 15.
set -euo pipefail
out=$1 minutes=${2:-15}
mkdir -p "$out/package"
if [ ! -d "$out/package/usr/share/sonic-pi/samples" ]; then
  (cd "$out/package" && apt-get download -q sonic-pi-samples && dpkg -x sonic-pi-samples_*.deb .)
fi
samples=$out/package/usr/share/sonic-pi/samples
if [ -e "$out/run" ]; then
  if [ -L "$out/run" ] || [ ! -f "$out/run/run.toml" ]; then
    echo "$out/run is no run of distill-ray; move it, or give another OUT" >&2
    exit 1
  fi
  rm -rf "$out/run"
fi
set -x
distill-ray prepare "$samples" --out "$out/corpus"
distill-ray train "$out/corpus" --out "$out/run" --name sonic-pi --max-minutes "$minutes"
distill-ray train-prior "$out/run/sonic-pi.distill" "$out/corpus" --max-minutes 3
distill-ray evaluate "$out/run/sonic-pi.distill" "$out/corpus"
distill-ray generate "$out/run/sonic-pi.distill" -n 4 -d 10 --seed 1 -o "$out/generated"
distill-ray info "$out/run/sonic-pi.distill"
