"""Questions of `efficientrollout doctor` to another environment: run by its interpreter, whatever is missing there.

Run as `python -c SOURCE REQUEST ANSWERS`: REQUEST is JSON, arguments by question; ANSWERS the file to write, JSON too,
`{"answer": …}` or `{"error": one line}` by question. So nothing but the standard library is imported before a question
needs it, and this file does not rely on its package.
"""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLUGIN = "efficientrollout"
"""Name of this package's entry point."""


def versions(distributions: list[str]) -> dict[str, str | None]:
    """Of this Python, and of installed distributions; None for those that are not."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def package() -> dict[str, str]:
    """This package as it is here."""
    found = importlib.import_module("nemo_rl_efficientrollout")
    return {"version": found.__version__, "folder": str(Path(found.__file__ or "").parent)}


def imported(module: str) -> str | None:
    """Version of a module that can be imported. What importing it raises is the answer where it cannot."""
    return getattr(importlib.import_module(module), "__version__", None)


def admitted() -> dict[str, Any]:
    """Whether vLLM sees this package's entry point, and its list of plugins that may load; None admits all."""
    from importlib.metadata import entry_points

    import vllm.envs

    visible = [point.name for point in entry_points(group="vllm.general_plugins")]
    return {"visible": PLUGIN in visible, "allowed": vllm.envs.VLLM_PLUGINS}


def active() -> bool:
    """Let vLLM load its plugins, as every process of an engine does. Raises what keeps this one from being active."""
    import vllm.plugins

    vllm.plugins.load_general_plugins()
    # vLLM logs what importing a plugin raises and goes on without it.
    importlib.import_module("nemo_rl_efficientrollout.engine.versions").check_vllm_version()
    importlib.import_module("nemo_rl_efficientrollout.engine.plugin").require_active()
    return True


def device() -> dict[str, Any]:
    """Torch, the CUDA that it was built for, and the GPUs that it sees."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": [properties.major, properties.minor],
            }
        )
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}


def lacks_fp8() -> list[str | None]:
    """Of every GPU: why it multiplies no FP8, or None."""
    import torch

    kernel = importlib.import_module("nemo_rl_efficientrollout.gate.detector.kernel")
    return [kernel.lacks_fp8(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]


def kernels(side: int) -> dict[str, dict[str, str]]:
    """vLLM's kernel on this device for a weight [side, side] of every format: its name, or why there is none."""
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config

    methods = importlib.import_module("nemo_rl_efficientrollout.engine.kernels")
    formats = importlib.import_module("nemo_rl_efficientrollout.drafter.formats").FORMATS
    settings = importlib.import_module("nemo_rl_efficientrollout.config").DrafterSettings
    found = {}
    with set_current_vllm_config(VllmConfig()):
        for name, form in formats.items():
            if name == "bf16":  # the policy's own layers
                continue
            method = methods.new_linear(torch.nn.Module(), settings(format=name))
            try:
                kernel = method.new_kernel((side, side), form.block(side).columns, torch.bfloat16)
                found[name] = {"kernel": type(kernel).__name__}
            except ValueError:
                found[name] = {"missing": f"runs on {form.hardware}"}
    return found


QUESTIONS: dict[str, Callable[..., Any]] = {
    question.__name__: question
    for question in (versions, package, imported, admitted, active, device, lacks_fp8, kernels)
}


def attempt(question: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """`{"answer": …}`, or `{"error": …}` with what the question raised."""
    try:
        return {"answer": QUESTIONS[question](**arguments)}
    except Exception as error:  # noqa: BLE001 whatever is broken in that environment is the answer
        line = next(iter(str(error).strip().splitlines()), "")
        return {"error": f"{type(error).__name__}: {line}"}


if __name__ == "__main__":
    request, answers = json.loads(sys.argv[1]), {}
    for name, arguments in request.items():
        answers[name] = attempt(name, arguments)
        Path(sys.argv[2]).write_text(json.dumps(answers))  # after each: the next may end this process
