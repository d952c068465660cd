"""Images without a container engine: buildah in chroots, in a folder of its own."""

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("buildah", "debootstrap")
BASE = "localhost/nemo-rl"
"""Name of the stand-in for NeMo-RL's image."""


def missing() -> str:
    """Why no image can be built here; empty if one can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install buildah debootstrap crun"
    return "" if os.geteuid() == 0 else "images are built as root"


class Builder:
    """buildah with its storage in `folder`; every answer is captured, errors included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        (folder / "registries.conf").write_text("unqualified-search-registries = []\n")
        self.environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "STORAGE_DRIVER": "vfs",
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        }

    def buildah(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        policy = ("--signature-policy", f"{self.folder}/policy.json") if command in ("bud", "from") else ()
        return subprocess.run(
            ("buildah", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run", command, *policy,
             *arguments),
            env=self.environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip

    def build(self, dockerfile: Path, context: Path, tag: str, **arguments: str) -> subprocess.CompletedProcess[str]:
        """`arguments` are build arguments. In Docker's format, as OCI's has no health checks."""
        given = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        # This machine's certificates: RUN steps reach the package index as this machine does.
        certificates = "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"
        return self.buildah(
            "bud", "--pull-never", "--format=docker", certificates, *given, "--file", str(dockerfile), "--tag", tag,
            str(context),
        )  # fmt: skip

    def base(self, uv: Path) -> str:
        """Builds the stand-in base; its name with its digest."""
        context = self.folder / "base"
        (context / "rootfs").mkdir(parents=True)
        packages = "--include=python3,ca-certificates"
        checked("debootstrap", "--variant=minbase", packages, "bookworm", f"{context}/rootfs")
        checked("tar", "--directory", f"{context}/rootfs", "--create", "--file", f"{context}/debian.tar", ".")
        shutil.rmtree(context / "rootfs")
        shutil.copy(uv, context / "uv")
        built = self.build(Path(__file__).parent / "base" / "Dockerfile", context, BASE)
        assert built.returncode == 0, built.stdout + built.stderr
        return self.by_digest(BASE)

    def by_digest(self, image: str) -> str:
        """An image's name with its digest."""
        inspected = self.buildah("inspect", "--type=image", "--format={{.FromImageDigest}}", image)
        return f"{image}@{inspected.stdout.strip()}"

    def run(self, image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """A command in a new container of the image, as the image's user."""
        container = self.buildah("from", "--pull-never", image).stdout.strip()
        done = self.buildah("run", *options, container, "--", *command)
        self.buildah("rm", container)
        return done


def checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
