"""The installation script on real environments, with packages made on the spot: no network."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "install-everywhere.sh"
UV = shutil.which("uv") or (str(ROOT / ".venv-cluster/bin/uv") if (ROOT / ".venv-cluster/bin/uv").exists() else None)
WORKER = "nemo_rl.models.generation.vllm.vllm_worker.VllmGenerationWorker"

pytestmark = pytest.mark.skipif(UV is None, reason="uv not found: make cluster-environment")


def wheel(folder: Path, name: str, version: str, *requires: str, code: str = "") -> Path:
    """A package with one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n{code}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


class Image:
    """Paths as in NeMo-RL's image, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.driver, self.workers, self.index = folder / "nemo_rl_venv", folder / "ray_venvs", folder / "index"
        self.index.mkdir()
        for version in ("1.0", "2.0"):
            wheel(self.index, "alpha", version)
            wheel(self.index, "beta", version)
        self.environment = {
            **os.environ,
            "PATH": f"{Path(str(UV)).parent}:{os.environ['PATH']}",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.index),
            "UV_CACHE_DIR": str(folder / "cache"),
            "UV_PROJECT_ENVIRONMENT": str(self.driver),
            "NEMO_RL_VENV_DIR": str(self.workers),
        }

    def uv(self, *command: str) -> str:
        done = subprocess.run((str(UV), *command), env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def make(self, environment: Path, *packages: str) -> None:
        self.uv("venv", "--quiet", str(environment))
        if packages:
            self.uv("pip", "install", "--quiet", "--python", str(environment / "bin/python"), *packages)

    def versions(self, environment: Path) -> list[str]:
        return self.uv("pip", "freeze", "--quiet", "--python", str(environment / "bin/python")).split("\n")

    def install(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ("bash", str(SCRIPT), *map(str, arguments)),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_every_environment_gets_it_and_none_is_moved(image: Image, tmp_path: Path) -> None:
    image.make(image.driver, "alpha==1.0")
    image.make(image.workers / WORKER, "alpha==1.0", "beta==1.0")
    image.make(image.workers / "another.Worker")
    done = image.install(wheel(tmp_path, "gamma_delta", "0.3", "alpha", "beta"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"gamma_delta 0.3 in {image.driver}, with beta==2.0",
        f"gamma_delta 0.3 in {image.workers}/another.Worker, with alpha==2.0 beta==2.0",
        f"gamma_delta 0.3 in {image.workers}/{WORKER}",
    ]
    assert "alpha==1.0" in image.versions(image.driver)
    assert {"alpha==1.0", "beta==1.0"} < set(image.versions(image.workers / WORKER))


def test_a_new_build_of_the_same_version_replaces_the_old(image: Image, tmp_path: Path) -> None:
    image.make(image.driver)
    for build in ("first", "second"):
        assert image.install(wheel(tmp_path, "gamma", "0.3", code=f"build = {build!r}")).returncode == 0
    built = subprocess.run(
        (f"{image.driver}/bin/python", "-c", "import gamma; print(gamma.build)"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert built.stdout.strip() == "second"


def test_pins_are_not_moved(image: Image, tmp_path: Path) -> None:
    image.make(image.driver, "beta==2.0")
    image.make(image.workers / WORKER, "beta==1.0")
    done = image.install(wheel(tmp_path, "gamma", "0.3", "beta>=2"))
    assert done.returncode == 1
    assert f"install-everywhere: {image.workers / WORKER} cannot take gamma-0.3" in done.stderr
    assert "beta==1.0" in image.versions(image.workers / WORKER)


def test_what_does_not_import_is_an_error(image: Image, tmp_path: Path) -> None:
    image.make(image.driver)
    done = image.install(wheel(tmp_path, "gamma", "0.3", code="import missing_module"))
    assert done.returncode == 1
    assert f"install-everywhere: {image.driver}: gamma is installed and cannot be imported" in done.stderr


def test_user_errors(image: Image, tmp_path: Path) -> None:
    assert "give one wheel" in image.install().stderr
    assert "'none.whl' is not a wheel file" in image.install("none.whl").stderr
    done = image.install(wheel(tmp_path, "gamma", "0.3"))
    assert done.returncode == 1
    assert f"{image.driver} has no bin/python: set UV_PROJECT_ENVIRONMENT" in done.stderr
