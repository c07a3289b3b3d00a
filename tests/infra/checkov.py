"""Runs checkov over the rendered objects: `python -m tests.infra.checkov [PROGRAM]`; exit 1 when a check fails.

checkov's pins do not fit ours, so it comes in an environment of its own:
`uv venv /somewhere && uv pip install --python /somewhere/bin/python checkov`; PROGRAM is then /somewhere/bin/checkov.
What is let through stands in infra/policies/exceptions.toml beside the exceptions of our own rules; an exception that
nothing needs any more fails, too. No chart's objects are here: they are rendered by the provider alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.policies import pack
from infra.policies.exceptions import CHECKOV, load_exceptions
from infra.policies.objects import KubeObject
from slipway.errors import InvalidInput, Problem, SlipwayError
from tests.infra.recorded_stack import GPU, fill_mirror, recorded

PROFILES: dict[str, dict[str, Any]] = {"core": {}, "full": {**GPU}}
EXCEPTIONS = [entry for entry in load_exceptions(pack.rule_names()) if CHECKOV.fullmatch(entry.rule)]
_WITHIN = 600


@dataclass(frozen=True)
class Result:
    passed: int
    failed: list[str]
    """What has no exception."""
    excepted: list[str]
    """Name of the exception, once for each failure that it lets through."""


def examine(program: str, folder: Path, profile: str) -> Result:
    """Hold the whole stack in one profile against every check. Raises SlipwayError."""
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
    return judge(document, objects)


def judge(document: dict[str, Any], objects: list[dict[str, Any]]) -> Result:
    """Take the exceptions off what checkov reports."""
    known = {
        f"{thing.kind}.{thing.namespace or 'default'}.{thing.name}": thing.where for thing in map(KubeObject, objects)
    }
    result = Result(document["summary"]["passed"], [], [])
    for check in document["results"]["failed_checks"]:
        where = known.get(check["resource"], check["resource"].replace(".", "/", 2))
        entry = next((entry for entry in EXCEPTIONS if entry.covers(check["check_id"], where)), None)
        if entry:
            result.excepted.append(entry.name)
        else:
            result.failed.append(f"{check['check_id']}: {where}: {check['check_name']}")
    return result


def main() -> int:
    program = sys.argv[1] if len(sys.argv) > 1 else shutil.which("checkov")
    if not program:
        raise InvalidInput(Problem("checkov", "is not installed", (__doc__ or "").splitlines()[3]))
    problems, used = 0, set[str]()
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as folder:
            result = examine(program, Path(folder), profile)
        counts = Counter(result.excepted)
        named = ", ".join(f"{name} {times}" for name, times in sorted(counts.items())) or "-"
        passed, failed, excepted = result.passed, len(result.failed), len(result.excepted)
        print(f"{profile}: {passed} checks passed, {failed} failed, {excepted} excepted: {named}")  # noqa: T201
        for failure in result.failed:
            print(f"  {failure}")  # noqa: T201
        problems += len(result.failed)
        used |= counts.keys()
    for entry in EXCEPTIONS:
        if entry.name not in used:
            print(f"exception {entry.name}: nothing needs it any more; remove it")  # noqa: T201
            problems += 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
