#!/usr/bin/env bash
# Submits one recipe as a Slurm job over NeMo-RL's ray.sub. The variables are described in submission.sh.
# usage: CONTAINER=… NEMO_RL_SOURCE=… [WHEEL=…] train.sh RECIPE [NEMO_RL_ARGUMENT…]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/submission.sh"

[[ $# -ge 1 ]] || fail "give a recipe: train.sh RECIPE [NEMO_RL_ARGUMENT…]"
prepare_submission
job=$(submit_recipe "$@")
name=$(basename "$1" .yaml)
echo "job $job: $name; its output is $RUNS/$name/$job.out, the logs of Ray and driver are in $RUNS/$name/$job-logs"
