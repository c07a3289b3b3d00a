"""Goes through the platform image's steps in a folder: `python -m tests.infra.image FOLDER`; exit 1 when one fails.

Not the image itself: that needs a builder of containers. But the same packages, by the same lock, into an environment
of their own; the same files; and then whether every program of ours that the stack starts can be imported there, where
there is no Pulumi, no test library, and nothing of this checkout. It needs the package index.
"""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipway.errors import InvalidInput, Problem
from slipway.settings import REPOSITORY
from tests.infra.recorded_stack import GPU, fill_mirror, recorded

DOCKERFILE = REPOSITORY / "platform" / "images" / "Dockerfile"
LOCK = REPOSITORY / "platform" / "images" / "requirements.lock"
OURS = "ghcr.io/slipway/platform"
ABSENT = ("pulumi", "pytest", "moto", "infra", "tests", "pip")
"""What the image must not have."""
_WITHIN = 1800


def instructions(file: Path = DOCKERFILE) -> Iterator[tuple[str, str]]:
    """(instruction, its argument) with continued lines joined."""
    joined = file.read_text().replace("\\\n", " ")
    for line in joined.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), " ".join(rest.split())


def copied() -> list[tuple[list[str], str]]:
    """(files and folders of the repository, where below /app) of the last stage."""
    found: list[tuple[list[str], str]] = []
    for word, rest in instructions():
        if word == "FROM":
            found = []
        elif word == "COPY" and not rest.startswith("--from"):
            *sources, target = shlex.split(rest)
            found.append((sources, target))
    return found


def commands(folder: Path) -> dict[str, list[str]]:
    """Kind/namespace/name -> command, of every container of the stack that runs the platform's image."""
    folder.mkdir()
    stack = recorded(provider="existing", profile="full", mirror={"dir": str(fill_mirror(folder))}, **GPU)
    found = {}
    for each in stack.objects():
        for container in _containers(each.inputs):
            if str(container.get("image", "")).startswith(OURS) and container.get("command"):
                found[each.where] = [*container["command"], *container.get("args", [])]
    return found


def _containers(thing: Any) -> Iterator[dict[str, Any]]:
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key == "containers" and isinstance(value, list):
                yield from value
            else:
                yield from _containers(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from _containers(value)


def probe(command: list[str]) -> str:
    """A program that imports what the command would run, and runs nothing of it. Raises InvalidInput."""
    match command:
        case ["python", "-m", module, *_]:
            return f"import importlib.util as u; assert u.find_spec({module!r}), {module!r}; import {_main(module)}"
        case ["python", "-c", code, *_]:
            imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
            return "; ".join(ast.unparse(node) for node in imports)
    raise InvalidInput(Problem("command", f"{command} starts no Python program of ours"))


def _main(module: str) -> str:
    folder = REPOSITORY.joinpath("platform", "src", *module.split("."))
    package = folder if folder.is_dir() else REPOSITORY.joinpath(*module.split("."))
    return f"{module}.__main__" if package.is_dir() else module


def lay_out(folder: Path) -> dict[str, str]:
    """Install and copy as the image does; the variables of its programs."""
    python = folder / "opt" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "opt"], check=True, timeout=_WITHIN)
    uv = Path(sys.executable).parent / "uv"
    install = [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", LOCK]
    subprocess.run(install, check=True, timeout=_WITHIN)
    for sources, target in copied():
        for source in sources:
            place = folder / "app" / target / (source if target == "./" else "")
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / source, place)
    path = f"{folder / 'app' / 'platform' / 'src'}:{folder / 'app'}"
    home = folder / "tmp"
    home.mkdir()
    return {"PYTHONPATH": path, "PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home)}


def main() -> int:
    if len(sys.argv) != 2:
        raise InvalidInput(Problem("FOLDER", "is not named", "an empty folder with 2 GiB of room"))
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    variables = lay_out(folder)
    probes = {where: probe(command) for where, command in commands(folder / "mirror").items()}
    absent = [f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is not None)" for name in ABSENT]
    checks = [*probes.items(), *((f"no {name}", text) for name, text in zip(ABSENT, absent, strict=True))]
    checks.append(("read-only code", "import slipway.cli; slipway.cli.main"))
    failed = 0
    for where, text in checks:
        # Without our own site: nothing of this checkout is found by accident. KServe reads the command line.
        done = subprocess.run(
            [folder / "opt" / "bin" / "python", "-c", text],
            cwd=folder / "app", env=variables, capture_output=True, text=True, timeout=_WITHIN, check=False,
        )  # fmt: skip
        said = "" if done.returncode == 0 else f": {done.stderr.strip().splitlines()[-1:]}"
        print(json.dumps(where), "ok" if not said else f"FAILED{said}")  # noqa: T201
        failed += bool(said)
    print(f"{len(checks)} checks, {failed} failed")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
