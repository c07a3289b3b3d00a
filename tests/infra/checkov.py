"""Runs checkov over the rendered objects: `python -m tests.infra.checkov [PROGRAM]`; exit 1 when a check fails.

checkov's pins do not fit ours, so it comes in an environment of its own:
`uv venv /somewhere && uv pip install --python /somewhere/bin/python checkov`; PROGRAM is then /somewhere/bin/checkov.
What is let through stands in infra/policies/exceptions.toml beside the exceptions of our own rules. No chart's objects
are here: they are rendered by the provider alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from infra.policies import pack
from infra.policies.exceptions import CHECKOV, load_exceptions
from infra.policies.objects import KubeObject
from slipway.errors import InvalidInput, Problem, SlipwayError
from tests.infra.recorded_stack import GPU, fill_mirror, recorded

PROFILES: dict[str, dict[str, Any]] = {"core": {}, "full": {**GPU}}
_WITHIN = 600


def examine(program: str, folder: Path, profile: str) -> tuple[int, list[str]]:
    """(checks passed, failures without an exception) of the whole stack in one profile. Raises SlipwayError."""
    stack = recorded(
        provider="existing", profile=profile, mirror={"dir": str(fill_mirror(folder))}, **PROFILES[profile]
    )
    objects = [each.inputs for each in stack.objects()]
    rendered = folder / "rendered"
    rendered.mkdir()
    (rendered / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    command = [program, "-d", str(rendered), "--framework", "kubernetes", "-o", "json", "--quiet", "--skip-download"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN, check=False)
    try:
        document = json.loads(done.stdout)
    except ValueError as error:
        raise SlipwayError(f"{program}: says no JSON: {done.stderr.strip()[-300:]}") from error
    return document["summary"]["passed"], list(_failures(document["results"]["failed_checks"], objects))


def _failures(failed: list[dict[str, Any]], objects: list[dict[str, Any]]) -> list[str]:
    exceptions = [entry for entry in load_exceptions(pack.rule_names()) if CHECKOV.fullmatch(entry.rule)]
    known = {
        f"{thing.kind}.{thing.namespace or 'default'}.{thing.name}": thing.where for thing in map(KubeObject, objects)
    }
    found = []
    for check in failed:
        where = known.get(check["resource"], check["resource"].replace(".", "/", 2))
        if not any(entry.covers(check["check_id"], where) for entry in exceptions):
            found.append(f"{check['check_id']}: {where}: {check['check_name']}")
    return found


def main() -> int:
    program = sys.argv[1] if len(sys.argv) > 1 else shutil.which("checkov")
    if not program:
        raise InvalidInput(Problem("checkov", "is not installed", (__doc__ or "").splitlines()[3]))
    failing = 0
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as folder:
            passed, failures = examine(program, Path(folder), profile)
        print(f"{profile}: {passed} checks passed, {len(failures)} failed without an exception")  # noqa: T201
        for failure in failures:
            print(f"  {failure}")  # noqa: T201
        failing += len(failures)
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
