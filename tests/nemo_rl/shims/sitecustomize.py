"""Imported by Python at start-up, in every process whose PYTHONPATH names this folder."""

import os

if os.environ.get("EFFICIENTROLLOUT_TESTS_NEMO_RL_ON_CPU"):
    from tests.nemo_rl import cpu_shims

    cpu_shims.install()
