"""Python environments for the doctor to look at: real virtual environments, tiny packages in place of large ones."""

import site
import sys
import venv
from pathlib import Path

import nemo_rl_efficientrollout

REAL_PACKAGES = Path(site.getsitepackages()[0])
LARGE = ("torch", "vllm", "ray", "nemo", "_nemo", "__editable__", "_editable_impl")
"""How the names of packages begin that a bare environment lacks."""
ACTIVE_PLUGIN = "def register(): pass\ndef require_active(): pass\n"
TORCH = """
__version__ = "2.13.0"
class version:
    cuda = "13.0"
class cuda:
    device_count = staticmethod(lambda: 0)
"""


def new_environment(folder: Path) -> Path:
    """An empty virtual environment; returns its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def packages_of(python: Path) -> Path:
    """The site-packages of an environment."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python.parents[1] / "lib" / version / "site-packages"


def add_distribution(python: Path, name: str, version: str, entry_points: str = "") -> None:
    """What an installer leaves of a package beside its code."""
    folder = packages_of(python) / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "entry_points.txt").write_text(entry_points)


def add_package(python: Path, name: str, **modules: str) -> Path:
    """A package with these modules; `__init__` is empty unless given."""
    folder = packages_of(python) / name
    folder.mkdir(parents=True, exist_ok=True)
    for module, source in {"__init__": "", **modules}.items():
        (folder / f"{module}.py").write_text(source)
    return folder


def worker_environment(
    folder: Path,
    *,
    version: str | None = nemo_rl_efficientrollout.__version__,
    vllm: str = "0.32.0",
    plugin: str = ACTIVE_PLUGIN,
    visible: bool = True,
) -> Path:
    """An environment with vLLM's own code for plugins, a stub of this package, and nothing heavy.

    Args:
        version: of this package there; None leaves it out.
        plugin: source of its `engine.plugin`.
        visible: whether its entry point is installed.
    """
    python = new_environment(folder)
    add_package(python, "torch", __init__=TORCH)
    own = add_package(python, "vllm")
    (own / "plugins").symlink_to(REAL_PACKAGES / "vllm" / "plugins")
    (own / "envs.py").symlink_to(REAL_PACKAGES / "vllm" / "envs.py")
    add_distribution(python, "vllm", vllm)
    if version is not None:
        real = Path(nemo_rl_efficientrollout.__file__).parent
        add_package(python, "nemo_rl_efficientrollout", __init__=f"__version__ = {version!r}\n")
        versions = (real / "engine" / "versions.py").read_text()
        add_package(python, "nemo_rl_efficientrollout/engine", plugin=plugin, versions=versions)
        (packages_of(python) / "nemo_rl_efficientrollout" / "errors.py").symlink_to(real / "errors.py")
        points = "[vllm.general_plugins]\nefficientrollout = nemo_rl_efficientrollout.engine.plugin:register\n"
        add_distribution(python, "nemo-rl-efficientrollout", version, points if visible else "")
    return python


def bare_environment(folder: Path) -> Path:
    """An environment with this package's own requirements, but neither torch nor vLLM, Ray or NeMo-RL."""
    python = new_environment(folder)
    for entry in REAL_PACKAGES.iterdir():
        if not entry.name.lower().startswith(LARGE) and not (packages_of(python) / entry.name).exists():
            (packages_of(python) / entry.name).symlink_to(entry)
    (packages_of(python) / "here.pth").write_text(f"{Path(nemo_rl_efficientrollout.__file__).parents[1]}\n")
    return python
