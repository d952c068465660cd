#!/usr/bin/env bash
# All GPU benchmarks, in pieces of under ten minutes, on a host without a network.
#
#   benchmarks/gpu/run_all.sh [--quick] [--list] OUT [PATTERN...]
#
# Each piece leaves OUT/NAME.json, OUT/NAME.md and OUT/NAME.log. One whose JSON exists is skipped: after an
# interruption, run the same command again. PATTERN, such as 'tail-*', picks pieces; --list names them.
# PYTHON chooses the interpreter; PIECE_SECONDS, 600 by default, stops a piece that takes too long.
set -euo pipefail

usage() {
    echo "usage: run_all.sh [--quick] [--list] OUT [PATTERN...]" >&2
    exit 2
}

quick=() list=false
while [[ ${1:-} == --* ]]; do
    case $1 in
    --quick) quick=(--quick) ;;
    --list) list=true ;;
    *) usage ;;
    esac
    shift
done
[[ $# -ge 1 ]] || usage
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
patterns=("$@")
python=${PYTHON:-python3}
limit=${PIECE_SECONDS:-600}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
failed=()
plugin='from importlib.metadata import entry_points as find
raise SystemExit(not find(group="vllm.general_plugins", name="efficientrollout"))'
if ! $list && ! "$python" -c "$plugin"; then
    echo "run_all.sh: $python does not know this package's vLLM plugin: pip install --no-deps . first" >&2
    exit 2
fi

chosen() {
    [[ ${#patterns[@]} -eq 0 ]] && return 0
    local pattern
    for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053 # a pattern is meant
        [[ $1 == $pattern ]] && return 0
    done
    return 1
}

# piece NAME BENCHMARK ARGUMENT...
piece() {
    local name=$1 benchmark=$2
    shift 2
    chosen "$name" || return 0
    if $list; then
        echo "$name"
        return 0
    fi
    if [[ -s $out/$name.json ]]; then
        echo "$name: done before"
        return 0
    fi
    echo "$name: started $(date +%T)"
    local status=0
    timeout --foreground --signal=INT --kill-after=60 "$limit" "$python" -m "benchmarks.gpu.$benchmark" "$@" \
        ${quick[@]+"${quick[@]}"} --quiet --json "$out/$name.json" --markdown "$out/$name.md" \
        >"$out/$name.log" 2>&1 || status=$?
    if [[ $status -ne 0 ]]; then
        # 130: Ctrl-C, which is meant for all pieces
        [[ $status -eq 130 ]] && exit 130
        echo "$name: failed with $status, see $out/$name.log" >&2
        failed+=("$name")
    fi
}

small=qwen2.5-7b
piece probe probe
piece shapes shapes --shape "$small"
for contexts in 256,1024,4096 16384; do
    piece "tail-7b-int4-to-${contexts##*,}" tail --shape "$small" --format int4 --contexts "$contexts"
done
piece overhead-7b overhead --shape "$small"
piece requantize-7b-int4 requantize --shape "$small" --format int4
piece requantize-7b-fp8 requantize --shape "$small" --format fp8
piece cycle-7b-int4 cycle --shape "$small" --format int4
piece cycle-7b-plain cycle --shape "$small" --draft-length 0

# Imposed acceptance, one contestant beside stock vLLM in each piece; vLLM's CPU sampler cannot impose any.
if [[ ${#quick[@]} -eq 0 ]]; then
    for contestant in efficientrollout fixed-5 fixed-7 stock-draft stock-table; do
        piece "rollout-7b-0.97-$contestant" rollout --shape "$small" --acceptance 0.97 --contestants "$contestant"
    done
    for rate in 0.85 0.90 0.958 0.982; do
        piece "rollout-7b-$rate-efficientrollout" rollout --shape "$small" --acceptance "$rate" \
            --contestants efficientrollout
    done
fi
piece rollout-7b-real rollout --shape "$small" --contestants efficientrollout

# Each call goes on where the one before it stopped.
$list || mkdir -p "$out/train"
for seeds in 0 0,1 0,1,2; do
    piece "train-to-seed-${seeds##*,}" train_small --seeds "$seeds" --cache "$out/train"
done

for format in fp8 int8; do
    piece "tail-7b-$format" tail --shape "$small" --format "$format" --contexts 256,1024,4096
done
piece tail-8b-int4 tail --shape llama-3.1-8b --format int4 --contexts 256,1024,4096
piece tail-14b-int4 tail --shape qwen2.5-14b --format int4 --contexts 256,1024,4096
if [[ ${#quick[@]} -eq 0 ]]; then
    piece rollout-8b-0.958-efficientrollout rollout --shape llama-3.1-8b --acceptance 0.958 \
        --contestants efficientrollout --kv-gib 20 --rounds 2
    piece rollout-14b-0.97-efficientrollout rollout --shape qwen2.5-14b --acceptance 0.97 \
        --contestants efficientrollout --kv-gib 24 --rounds 2
fi

if [[ ${#failed[@]} -gt 0 ]]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
