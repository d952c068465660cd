"""Whether the job can write where it will."""

import os
from pathlib import Path

from .finding import Finding


def folder_finding(folder: Path) -> Finding:
    """On a folder that exists, or on the nearest one above it in which it would be made."""
    nearest = folder.resolve()
    while not nearest.exists():
        nearest = nearest.parent
    name = f"folder {folder}"
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding(name, "ok", "can be written")
    return Finding(name, "fail", f"{nearest} cannot be written", "choose another, or change its permissions")
