#!/usr/bin/env bash
# One visit to a machine with a GPU, at most 12 minutes: the tests, training, pretraining, speed.
#
#     OUT=out PYTHON=python3 bench/on_gpu.sh
#
# $OUT/gpu.json is written after each step, so a visit that is cut short keeps what it has: of each step its status
# (124: out of time), its seconds, the end of what it said, and the figures that it wrote.
set -u
cd "$(dirname "$0")/.."
out=$(mkdir -p "${OUT:-out}" && cd "${OUT:-out}" && pwd) python=${PYTHON:-python3} end=$((SECONDS + 710))
export PYTHONPATH=. PYTHONUNBUFFERED=1

step() { # its name, the seconds that it may take, the command
  local name=$1 limit=$(($2 < end - SECONDS ? $2 : end - SECONDS)) began=$SECONDS status=124
  shift 2
  echo "$name: at most $limit s"
  if ((limit > 0)); then
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1
    status=$?
  fi
  "$python" bench/note.py "$out" "$name" "$status" "$((SECONDS - began))" "$limit" "$*"
}

step machine 30 "$python" -c 'from bench.timing import machine; print(machine())'
step tests 160 "$python" -m pytest -o addopts= -m gpu -q -s -rs --tb=short --durations=12 tests/test_gpu.py
step train 270 "$python" train.py --run-dir "$out/run"
step pretrain 90 "$python" -m retro.pretrain --out "$out/base" --checkpoint-minutes 0.1
step generate 50 "$python" -m bench --device cuda --only generate --json "$out/generate.json"
step bench 110 "$python" -m bench --device cuda --repeats 2 --limit 45 --json "$out/bench.json"
echo "wrote $out/gpu.json"
