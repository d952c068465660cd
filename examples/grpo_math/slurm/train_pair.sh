#!/usr/bin/env bash
# Submits a recipe with self-speculation, its plain twin, and a job that compares the two when both have ended.
# usage: CONTAINER=… NEMO_RL_SOURCE=… [WHEEL=…] train_pair.sh …-efficientrollout….yaml [NEMO_RL_ARGUMENT…]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/submission.sh"

[[ $# -ge 1 ]] || fail "give a recipe: train_pair.sh …-efficientrollout.yaml [NEMO_RL_ARGUMENT…]"
accelerated=$1
shift
name=$(basename "$accelerated" .yaml)
plain_name=${name/-efficientrollout/}
[[ $plain_name != "$name" ]] || fail "$accelerated: expected a recipe with -efficientrollout in its name"
plain=$(dirname "$accelerated")/$plain_name.yaml
[[ -f $plain ]] || fail "$plain: no such recipe; it is the plain twin that $name is compared with"

prepare_submission
# What the comparison reads must be written, and neither run may go on from a checkpoint of an earlier one.
fresh=(logger.tensorboard_enabled=true checkpointing.enabled=false)
plain_job=$(submit_recipe "$plain" "${fresh[@]}" "$@")
accelerated_job=$(submit_recipe "$accelerated" "${fresh[@]}" "$@")
# afterany: a run that met its time limit has steps worth comparing; compare.sbatch says so.
compare_job=$(sbatch --parsable --export=ALL --dependency="afterany:$plain_job:$accelerated_job" \
  --job-name="compare-$name" --output="$RUNS/$name/compare-%j.out" "$SLURM_SCRIPTS/compare.sbatch" \
  "$RUNS/$plain_name/$plain_job" "$RUNS/$name/$accelerated_job" "$RUNS/$name/compare-$accelerated_job.html")
echo "job $plain_job: $plain_name"
echo "job $accelerated_job: $name"
echo "job $compare_job: compares them into $RUNS/$name/compare-$accelerated_job.html"
