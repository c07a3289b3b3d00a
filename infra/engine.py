"""Runs the two programs through Pulumi's Automation API, from this process, with the state of one environment.

Whatever a dead run left is mended first: its lock, when it ran here and is no more, and what it had begun. Every `up`
reads the cluster before it changes it, so that what somebody changed by hand is put right as well.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pulumi.automation import (
    CommandError,
    ConcurrentUpdateError,
    Deployment,
    LocalWorkspace,
    ProjectBackend,
    ProjectSettings,
    Stack,
    StackNotFoundError,
)

from infra import locks, recovery, removal
from infra.backend import Backend, open_backend
from infra.failures import explain
from infra.progress import Progress, Say, describe
from infra.pulumi_cli import find_cli
from slipway.environment import Environment
from slipway.errors import Refused, SlipwayError
from slipway.settings import Settings

Project = Literal["cluster", "services"]
Program = Callable[[Settings], None]
PROJECTS: tuple[Project, ...] = ("cluster", "services")
POLICIES = Path(__file__).with_name("policies")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What a run did, or would do."""

    project: str
    steps: Mapping[str, int]
    """Resources by operation (`create`, `update`, `delete`, `same` ...), components and providers not counted."""
    changed: list[str]
    """URNs of the resources that were not left as they were."""
    findings: list[str]
    """Of the policy pack."""
    seconds: float
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """What the program exports, secrets left out."""

    @property
    def summary(self) -> str:
        parts = [f"{count} {name}" for name, count in sorted(self.steps.items()) if count]
        return f"{self.project}: {', '.join(parts) or 'nothing'} in {self.seconds:.0f} s"


class Engine:
    """One project of one environment. Opening it makes folders and the stack; it starts nothing in a cluster."""

    def __init__(self, environment: Environment, project: Project, say: Say, program: Program | None = None) -> None:
        self._environment = environment
        self._project = project
        self._say = say
        self._program = program
        self._cli = find_cli()
        self._backend: Backend = open_backend(environment)
        self._log = environment.state.logs / f"infra-{project}.log"
        self._stack = self._guard(self._open, Progress(say, planned=True))

    @property
    def name(self) -> str:
        return f"{self._environment.settings.name}/{self._project}"

    def preview(self, *, policies: bool = True) -> Outcome:
        """What `up` would change, with the findings of the policy pack. Changes nothing."""
        progress = Progress(self._say, planned=True)
        # A preview must not fail for findings: it is what shows them.
        run = partial(self._stack.preview, policy_packs=self._packs(policies), refresh=True)
        try:
            return self._run(run, progress)
        except SlipwayError:
            if progress.findings:
                return self._outcome(progress, 0.0)
            raise

    def up(self, *, policies: bool = True) -> Outcome:
        """Make the cluster what the program says. Raises SlipwayError; the next `up` goes on from there."""
        self._recover()
        run = partial(self._stack.up, policy_packs=self._packs(policies), refresh=True, suppress_outputs=True)
        return self._run(run, Progress(self._say, planned=False))

    def refresh(self) -> Outcome:
        """Read the cluster into the state; `changed` is what is not as we left it."""
        self._recover()
        return self._run(partial(self._stack.refresh, suppress_outputs=True), Progress(self._say, planned=False))

    def plan_removal(self, *, keep_data: bool) -> removal.Removal:
        """What `down` takes away."""
        return removal.plan_removal(self._state().get("resources") or [], keep_data=keep_data)

    def down(self, *, keep_data: bool = False) -> Outcome:
        """Remove what this stack made; without `keep_data` nothing of it is left, the stack included."""
        self._recover(refresh=True)
        plan = self.plan_removal(keep_data=keep_data)
        progress = Progress(self._say, planned=False)
        targets: list[str] | None = None
        if plan.kept:
            kept = set(plan.kept)
            targets = [item["urn"] for item in self._state().get("resources") or [] if item["urn"] not in kept]
            if not targets:
                return self._outcome(progress, 0.0)
        outcome = self._run(partial(self._stack.destroy, target=targets, suppress_outputs=True), progress)
        if not plan.kept:
            self._stack.workspace.remove_stack(self._stack.name)
        return outcome

    def unlock(self) -> None:
        """Take the lock away, whoever holds it."""
        with suppress(CommandError):
            self._stack.cancel()

    def outputs(self) -> dict[str, Any]:
        """What the program exported, secrets left out."""
        found = self._guard(self._stack.outputs, Progress(self._say, planned=True))
        return {name: output.value for name, output in found.items() if not output.secret}

    def count_resources(self) -> int:
        """How many things the state holds, components and providers not counted."""
        return sum(self.plan_removal(keep_data=False).counts.values())

    def _open(self) -> Stack:
        name = self._environment.settings.name
        folder = self._backend.work_folder(self._project)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        workspace = LocalWorkspace(
            work_dir=str(folder),
            pulumi_command=self._cli,
            secrets_provider="passphrase",
            program=self._run_program,
            project_settings=ProjectSettings(
                f"slipway-{self._project}", "python", main=str(folder), backend=ProjectBackend(self._backend.url)
            ),
            env_vars=self._backend.variables()
            | {"SLIPWAY_PYTHON": sys.executable, "PATH": f"{os.environ['PATH']}{os.pathsep}{POLICIES / 'bin'}"},
        )
        try:
            return Stack.select(name, workspace)
        except StackNotFoundError:
            return Stack.create(name, workspace)

    def _run_program(self) -> None:
        program = self._program
        if program is None:
            program = importlib.import_module(f"infra.{self._project}.program").stand_up
        program(self._environment.settings)

    def _packs(self, wanted: bool) -> list[str] | None:
        return [str(POLICIES)] if wanted else None

    def _state(self) -> recovery.Deployment:
        exported = self._guard(self._stack.export_stack, Progress(self._say, planned=True))
        return dict(exported.deployment or {})

    def _recover(self, *, refresh: bool = False) -> None:
        """Mend what a run that died in the middle left in the state."""
        state = self._state()
        if not state.get("pending_operations"):
            return
        mended, settled, unsettled = recovery.adopt_unfinished(state)
        for urn in settled:
            self._say(f"  mending    {describe(urn)}: the last run died while it worked on it")
        for urn in unsettled:
            self._say(f"  warning    {describe(urn)}: may exist and be in no state; look, and remove it by hand")
        progress = Progress(self._say, planned=True)
        self._guard(partial(self._stack.import_stack, Deployment(version=3, deployment=mended)), progress)
        if refresh:
            self._run(partial(self._stack.refresh, suppress_outputs=True), Progress(self._say, planned=False))

    def _run(self, run: Callable[..., Any], progress: Progress) -> Outcome:
        begun = time.monotonic()
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", buffering=1) as log:

            def keep(line: str) -> None:
                log.write(f"{line}\n")

            self._guard(
                partial(run, on_output=keep, on_error=keep, on_event=progress, color="never", suppress_progress=True),
                progress,
            )
        return self._outcome(progress, time.monotonic() - begun)

    def _outcome(self, progress: Progress, seconds: float) -> Outcome:
        steps = dict(progress.steps)
        return Outcome(self._project, steps, progress.changed, progress.findings, seconds, self.outputs())

    def _guard(self, call: Callable[[], Result], progress: Progress) -> Result:
        """Call Pulumi; what it fails with becomes an error of ours. A dead run's lock is taken away, once."""
        try:
            return call()
        except ConcurrentUpdateError as error:
            owners = locks.read_owners(str(error))
            if not owners or not all(owner.is_dead for owner in owners):
                raise locks.refusal(owners, self._environment.settings.name, self._project) from error
            self._say(f"  unlocking  the run that held the state is dead ({'; '.join(map(str, owners))})")
            self._stack.cancel()
        except CommandError as error:
            raise self._explain(error, progress) from error
        try:
            return call()
        except CommandError as error:
            raise self._explain(error, progress) from error

    def _explain(self, error: CommandError, progress: Progress) -> SlipwayError:
        return explain(error, progress.errors, stack=self.name, passphrase_file=self._backend.passphrase_file)


def projects_of(settings: Settings) -> tuple[Project, ...]:
    """In the order of standing up: no cluster is made where one exists. Raises Refused for the local target."""
    if settings.kubernetes is None:
        raise Refused(f"{settings.name} runs on this machine, not on Kubernetes", hint="slipway up")
    return ("services",) if settings.kubernetes.provider == "existing" else PROJECTS


def preview(environment: Environment, *, project: Project, on_output: Say) -> Outcome:
    """What `up` would change."""
    return Engine(environment, project, on_output).preview()


def up(environment: Environment, *, project: Project, on_output: Say) -> Outcome:
    """Stand the project up."""
    return Engine(environment, project, on_output).up()


def refresh(environment: Environment, *, project: Project, on_output: Say) -> Outcome:
    """Read the cluster into the state."""
    return Engine(environment, project, on_output).refresh()


def down(environment: Environment, *, project: Project, on_output: Say, keep_data: bool = False) -> Outcome:
    """Remove the project; asks nothing."""
    return Engine(environment, project, on_output).down(keep_data=keep_data)
