"""Puts the provider where Pulumi's engine looks for plugins, unless the published one is installed there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.cluster.provider.servicer import VERSION

REPOSITORY = Path(__file__).resolve().parents[3]
PLUGIN = f"resource-kubernetes-v{VERSION}"


def install(home: Path) -> Path:
    """A folder for PULUMI_HOME: the user's own where the published provider is in it, otherwise `home` with ours."""
    published = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    if (published / "plugins" / PLUGIN).is_dir():
        return published
    folder = home / "plugins" / PLUGIN
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "pulumi-resource-kubernetes"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m tests.cluster.provider "$@"\n')
    program.chmod(0o755)
    return home
