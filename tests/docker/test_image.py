"""The image, really built on a stand-in for NeMo-RL's, whose environments have neither torch nor vLLM."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .image import BASE, Builder, missing

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
UV = ROOT / ".venv-cluster" / "bin" / "uv" if shutil.which("uv") is None else Path(str(shutil.which("uv")))
ENVIRONMENTS = (
    "/opt/nemo_rl_venv",
    "/opt/ray_venvs/nemo_rl.models.generation.vllm.vllm_worker.VllmGenerationWorker",
    "/opt/ray_venvs/nemo_rl.models.generation.vllm.vllm_worker_async.VllmAsyncGenerationWorker",
    "/opt/ray_venvs/nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker",
)
OF_DRIVER = {"numpy": "2.2.6", "pydantic": "2.11.7"}
OF_WORKERS = {"numpy": "2.1.3", "scipy": "1.15.3", "pydantic": "2.11.7", "rich": "14.0.0"}
PINNED = {environment: OF_WORKERS if "ray_venvs" in environment else OF_DRIVER for environment in ENVIRONMENTS}
"""What the stand-in had before, from its Dockerfile."""


@dataclass(frozen=True)
class Built:
    builder: Builder
    base: str
    image: str


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    if reason := missing():
        pytest.skip(reason)
    if not UV.exists():
        pytest.skip("uv not found: make cluster-environment")
    folder = Path(tempfile.mkdtemp(prefix="image."))
    try:
        builder = Builder(folder)
        base = builder.base(UV)
        done = builder.build(
            DOCKERFILE, ROOT, "localhost/app", BASE_IMAGE=base, RUN_AS="efficientrollout",
            VERSION="1.2.3", REVISION="abc", SOURCE="here", LICENSES="Apache-2.0",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield Built(builder, base, "localhost/app")
    finally:
        shutil.rmtree(folder)


def test_the_doctor_runs_as_the_user_that_is_not_root(built: Built) -> None:
    who = built.builder.run(built.image, "id", "--user", "--name")
    assert who.stdout.strip() == "efficientrollout"
    done = built.builder.run(built.image, "efficientrollout", "doctor", "--no-engine", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "no-go"
    failed = {finding["found"] for finding in answer["findings"] if finding["verdict"] == "fail"}
    missing_there = {f"{environment}/bin/python has no vLLM" for environment in ENVIRONMENTS[1:3]}
    assert failed == missing_there | {"vLLM did not make it active: ModuleNotFoundError: No module named 'vllm'"}
    packages = [finding for finding in answer["findings"] if finding["name"].startswith("package [")]
    assert [finding["verdict"] for finding in packages] == ["ok", "ok"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_installed_in_every_environment_with_its_pins_kept(built: Built, environment: str) -> None:
    code = (
        "import importlib.metadata as m, json, nemo_rl_efficientrollout as package; "
        "print(json.dumps([package.__file__, {d.name: d.version for d in m.distributions()}, "
        "[e.name for e in m.entry_points(group='vllm.general_plugins')]]))"
    )
    done = built.builder.run(built.image, f"{environment}/bin/python", "-I", "-c", code)
    assert done.returncode == 0, done.stderr
    file, versions, plugins = json.loads(done.stdout)
    assert file.startswith(environment)
    assert plugins == ["efficientrollout"]
    assert versions.items() >= PINNED[environment].items()
    assert versions.keys() >= {"scipy", "typer", "rich", "plotly"}


def test_what_the_image_says_of_itself(built: Built) -> None:
    inspected = json.loads(built.builder.buildah("inspect", "--type=image", built.image).stdout)["Docker"]["config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in inspected["Labels"].items()}
    assert labels.items() >= {"version": "1.2.3", "revision": "abc", "source": "here", "licenses": "Apache-2.0"}.items()
    assert inspected["Healthcheck"]["Test"] == ["CMD", "efficientrollout", "doctor", "--no-engine"]
    assert inspected["Entrypoint"] == ["/usr/bin/env", "STARTED_BY=base"], "the base's entrypoint is kept"
    assert inspected["WorkingDir"] == "/opt/nemo-rl", "the base's folder is kept"
    assert inspected["User"] == "efficientrollout"


def test_only_what_belongs_there_is_copied(built: Built) -> None:
    done = built.builder.run(built.image, "find", "/opt/efficientrollout", "-mindepth", "1", "-maxdepth", "1")
    assert set(done.stdout.split()) == {"/opt/efficientrollout/recipes", "/opt/efficientrollout/install-everywhere.sh"}
    recipes = built.builder.run(built.image, "find", "/opt/efficientrollout/recipes", "-type", "f", "-printf", "%P\\n")
    here = {str(path.relative_to(ROOT / "recipes")) for path in (ROOT / "recipes").rglob("*") if path.is_file()}
    assert set(recipes.stdout.split()) == here
    assert built.builder.run(built.image, "test", "-e", "/dist").returncode != 0, "the wheel's stage leaks"


def test_a_base_must_be_given_by_digest(built: Built) -> None:
    none = built.builder.build(DOCKERFILE, ROOT, "localhost/none")
    assert none.returncode != 0
    assert "BASE_IMAGE" in none.stderr
    tag = built.builder.build(DOCKERFILE, ROOT, "localhost/tag", BASE_IMAGE=BASE)
    assert tag.returncode != 0
    assert f"BASE_IMAGE is '{BASE}': give NeMo-RL's image as NAME@sha256:DIGEST" in tag.stdout + tag.stderr


def test_a_base_that_another_user_cannot_read_fails_the_build(built: Built) -> None:
    closed = built.builder.folder / "closed"
    closed.mkdir()
    (closed / "Dockerfile").write_text(f"FROM {built.base}\nRUN chmod 700 /opt/nemo_rl_venv\n")
    assert built.builder.build(closed / "Dockerfile", closed, "localhost/closed").returncode == 0
    base = built.builder.by_digest("localhost/closed")
    as_user = built.builder.build(DOCKERFILE, ROOT, "localhost/user", BASE_IMAGE=base, RUN_AS="efficientrollout")
    assert as_user.returncode != 0
    assert "efficientrollout version" in as_user.stderr
    as_root = built.builder.build(DOCKERFILE, ROOT, "localhost/root", BASE_IMAGE=base)
    assert as_root.returncode == 0, as_root.stdout + as_root.stderr
