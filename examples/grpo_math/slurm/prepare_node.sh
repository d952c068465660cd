#!/usr/bin/env bash
# On every node, inside the container, before Ray starts: installs the wheel if there is one and asks the doctor.
# usage: prepare_node.sh LOG_DIR. What stops the job is one line in LOG_DIR/stopped-NODE, and exit code 1.
set -euo pipefail

logs=$1
node=${SLURMD_NODENAME:-$(hostname)}
PATIENCE=900 # seconds for the doctor, which starts a small engine

stop() {
  echo "node $node: $*" | tee "$logs/stopped-$node" >&2
  touch "$logs/ENDED" # ray.sub's sign to its other nodes
  exit 1
}

if [[ -n ${WHEEL:-} ]]; then
  bash "$EFFICIENTROLLOUT_SOURCE/docker/install-everywhere.sh" "$WHEEL" ||
    stop "$WHEEL could not be installed; why is in this node's log in $logs"
fi
report=$logs/doctor-$node.txt
status=0
timeout "$PATIENCE" efficientrollout doctor > "$report" 2>&1 || status=$?
cat "$report"
case $status in
  0) ;;
  124) stop "efficientrollout doctor gave no answer within $PATIENCE s" ;;
  *) stop "efficientrollout doctor says no-go (exit code $status); its findings are in $report" ;;
esac
