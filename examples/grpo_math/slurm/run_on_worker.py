"""Runs a command on a node of a Ray cluster that is not this one. Needs Ray alone: RAY_ADDRESS names the cluster."""

# Ray lives in an environment of its own.
# pyright: reportMissingImports=false

import argparse
import os
import socket
import subprocess
import sys
import time

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

JOIN_SECONDS = 120
"""How long nodes may take to join."""


def node_name() -> str:
    """Slurm's name of this node: several may share one host."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


@ray.remote(max_retries=0)
def name() -> str:
    return node_name()


@ray.remote(max_retries=0)
def run(command: list[str], folder: str) -> tuple[int, str, str]:
    """Exit code of the command and what it wrote to stdout and stderr."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def workers(nodes: int) -> list[str]:
    """Ids of the nodes that are not this one, once all have joined.

    Raises:
        TimeoutError: fewer than `nodes` within JOIN_SECONDS.
    """
    here = ray.get_runtime_context().get_node_id()
    end = time.monotonic() + JOIN_SECONDS
    while len(alive := [node["NodeID"] for node in ray.nodes() if node["Alive"]]) < nodes:
        if time.monotonic() > end:
            raise TimeoutError(f"{len(alive)} of {nodes} nodes joined within {JOIN_SECONDS} s")
        time.sleep(1)
    return [node for node in alive if node != here]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, required=True, help="nodes that must have joined, this one included")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    place = "a worker node"
    try:
        ray.init(logging_level="ERROR", log_to_driver=False)
        there = NodeAffinitySchedulingStrategy(workers(options.nodes)[0], soft=False)
        place = f"node {ray.get(name.options(scheduling_strategy=there).remote())}"
        print(f"{node_name()}: the job runs on {place}", file=sys.stderr, flush=True)
        job = run.options(scheduling_strategy=there).remote(options.command, os.getcwd())
        code, output, errors = ray.get(job)
    except TimeoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RayError as error:
        ray.shutdown()  # first: it prints what it knows of the lost node, and the last line shall be ours
        print(f"error: {place} was lost while the job ran on it ({type(error).__name__})", file=sys.stderr)
        return 1
    sys.stdout.write(output)
    sys.stderr.write(errors)
    if code:
        print(f"error: the job on {place} ended with exit code {code}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
