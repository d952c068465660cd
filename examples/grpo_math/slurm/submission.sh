# shellcheck shell=bash
# What train.sh and train_pair.sh share: checks what the user gave and submits one recipe.
#
#   CONTAINER       image, as NeMo-RL's ray.sub takes it: a registry reference or a squashfs file
#   NEMO_RL_SOURCE  checkout of NeMo-RL, for its ray.sub
#   WHEEL           optional: this package's wheel; left out where the image has the package
#   RUNS            optional: folder on a filesystem that every node shares (default: ./runs)
#   MOUNTS          optional: more mounts, as ray.sub takes them
#
# Account, partition, time and GRES are sbatch's own variables: SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT,
# SBATCH_GRES.

EFFICIENTROLLOUT_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd -P)
SLURM_SCRIPTS=$EFFICIENTROLLOUT_SOURCE/examples/grpo_math/slurm

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# Checks the variables, completes the mounts, and exports both for the jobs.
prepare_submission() {
  command -v sbatch > /dev/null || fail "sbatch not found: run this where Slurm jobs are submitted"
  [[ -n ${CONTAINER:-} ]] || fail "CONTAINER is not set: give the image that ray.sub shall start on every node"
  [[ -f ${NEMO_RL_SOURCE:-}/ray.sub ]] ||
    fail "NEMO_RL_SOURCE='${NEMO_RL_SOURCE:-}' has no ray.sub: give the folder of a NeMo-RL checkout"
  WHEEL=${WHEEL:-}
  if [[ -n $WHEEL ]]; then
    [[ -f $WHEEL ]] || fail "WHEEL='$WHEEL': no such file; 'make wheel' writes one to dist/"
    WHEEL=$(realpath "$WHEEL")
  fi
  NEMO_RL_SOURCE=$(realpath "$NEMO_RL_SOURCE")
  RUNS=$(realpath --canonicalize-missing "${RUNS:-runs}")
  mkdir -p "$RUNS"
  local folder
  for folder in "$PWD" "$EFFICIENTROLLOUT_SOURCE" "$RUNS" ${WHEEL:+"${WHEEL%/*}"}; do
    [[ $folder != *[[:space:],:]* ]] || fail "'$folder' cannot be mounted: no spaces, commas or colons in its name"
    [[ ,${MOUNTS:-}, == *",$folder:$folder,"* ]] || MOUNTS=${MOUNTS:+$MOUNTS,}$folder:$folder
  done
  export CONTAINER NEMO_RL_SOURCE WHEEL MOUNTS EFFICIENTROLLOUT_SOURCE SLURM_SCRIPTS
}

# submit_recipe RECIPE [NEMO_RL_ARGUMENT…]: prints the job's number. Nodes and GPUs are read from the recipe's name.
submit_recipe() {
  local recipe=$1 name
  shift
  [[ -f $recipe ]] || fail "$recipe: no such recipe"
  recipe=$(realpath "$recipe")
  name=$(basename "$recipe" .yaml)
  [[ $name =~ ^([a-z]+)-.+-([0-9]+)n([0-9]+)g- ]] ||
    fail "$recipe: expected a name such as grpo-qwen2.5-7b-1n8g-megatron.yaml: algorithm, nodes, GPUs per node"
  mkdir -p "$RUNS/$name"
  ALGORITHM=${BASH_REMATCH[1]} GPUS_PER_NODE=${BASH_REMATCH[3]} BASE_LOG_DIR=$RUNS/$name \
    sbatch --parsable --export=ALL --nodes="${BASH_REMATCH[2]}" --job-name="$name" \
    --output="$RUNS/$name/%j.out" "$SLURM_SCRIPTS/train.sbatch" "$recipe" "$@"
}
