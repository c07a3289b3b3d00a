"""Runs the two programs through Pulumi's Automation API, from this process, with the state of one environment.

Whatever a dead run left is mended first: its lock, when it ran here and is no more, and what it had begun. Every `up`
reads the cluster before it changes it, so that what somebody changed by hand is put right as well.
"""

from __future__ import annotations

import asyncio
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
from infra.backend import Backend, may_have, open_backend
from infra.failures import explain, is_passing, spell
from infra.plan import list_lines
from infra.progress import Progress, Say, describe
from infra.pulumi_cli import find_cli
from slipway.environment import Environment
from slipway.errors import Refused, SlipwayError
from slipway.settings import Settings

Project = Literal["cluster", "services"]
Program = Callable[[Settings], None]
PROJECTS: tuple[Project, ...] = ("cluster", "services")
POLICIES = Path(__file__).with_name("policies")
PROGRAMS = (POLICIES / "bin", Path(__file__).with_name("cluster") / "bin")
"""What Pulumi's engine starts from the PATH where its language plugin for Python is not installed."""

_PAUSES = (5.0, 10.0, 20.0, 40.0)
"""Seconds between the tries of an `up` that nothing but a webhook stopped: its pod is ready before it can be asked."""
_CLOSED_WITHIN = 5.0
"""Seconds for what a failed program was about."""

Result = TypeVar("Result")


class NotMade(SlipwayError):
    """There is no stack, and none was to be made."""


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

    @classmethod
    def find(cls, environment: Environment, project: Project, say: Say) -> Engine | None:
        """The project if it has a stack, up or half up; None where it was never stood up, or was taken down."""
        if not may_have(environment, project):
            return None
        try:
            return cls(environment, project, say, make=False)
        except NotMade:
            return None

    def __init__(
        self, environment: Environment, project: Project, say: Say, program: Program | None = None, *, make: bool = True
    ) -> None:
        """`make`: the stack, where there is none; otherwise raises NotMade."""
        self._environment = environment
        self._project = project
        self._say = say
        self._program = program
        self._make = make
        self._cli = find_cli()
        self._loops: list[asyncio.AbstractEventLoop] = []
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
            outcome = self._run(run, progress)
        except SlipwayError:
            if not progress.findings:
                raise
            outcome = self._outcome(progress, 0.0)
        for line in list_lines(progress.planned):
            self._say(line)
        return outcome

    def up(self, *, policies: bool = True) -> Outcome:
        """Make the cluster what the program says. Raises SlipwayError; the next `up` goes on from there."""
        run = partial(self._stack.up, policy_packs=self._packs(policies), refresh=True, suppress_outputs=True)
        progress, pauses = Progress(self._say, planned=False), iter(_PAUSES)
        while True:
            self._recover()
            try:
                return self._run(run, progress)
            except SlipwayError:
                pause = next(pauses, None)
                if pause is None or not is_passing(progress.errors):
                    raise
            self._say(f"  waiting    an operator's webhook does not answer yet; once more in {pause:.0f} s")
            time.sleep(pause)
            progress = progress.begin_anew()

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

    def read_secret(self, name: str) -> str:
        """A secret that the program exported. Raises KeyError."""
        found = self._guard(self._stack.outputs, Progress(self._say, planned=True))
        return str(found[name].value)

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
            | {"SLIPWAY_PYTHON": sys.executable, "PATH": os.pathsep.join((os.environ["PATH"], *map(str, PROGRAMS)))},
        )
        try:
            return Stack.select(name, workspace)
        except StackNotFoundError as error:
            if not self._make:
                raise NotMade(f"{self.name}: there is no stack") from error
            return Stack.create(name, workspace)

    def _run_program(self) -> None:
        self._loops.append(asyncio.get_running_loop())
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
        self._import(mended)
        if refresh:
            self._run(partial(self._stack.refresh, suppress_outputs=True), Progress(self._say, planned=False))

    def _run(self, run: Callable[..., Any], progress: Progress) -> Outcome:
        begun = time.monotonic()
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", buffering=1) as log:

            def keep(line: str) -> None:
                log.write(f"{line}\n")

            try:
                self._guard(
                    partial(
                        run, on_output=keep, on_error=keep, on_event=progress, color="never", suppress_progress=True
                    ),
                    progress,
                )
            except SlipwayError:
                self._adopt_unanswered(progress)
                raise
            finally:
                self._close_loops()
        return self._outcome(progress, time.monotonic() - begun)

    def _adopt_unanswered(self, progress: Progress) -> None:
        """Keep what the engine forgets: creations that a provider had begun when it died. A refresh sorts them."""
        if progress.unanswered:
            noted = recovery.note_unanswered(self._state(), progress.unanswered)
            # Not as unfinished operations: an import takes those out.
            self._import(recovery.adopt_unfinished(noted)[0])

    def _import(self, state: recovery.Deployment) -> None:
        run = partial(self._stack.import_stack, Deployment(version=3, deployment=state))
        self._guard(run, Progress(self._say, planned=True))

    def _close_loops(self) -> None:
        """Pulumi leaves the program's event loop, and what it was about, when a run fails in the middle."""
        while self._loops:
            loop = self._loops.pop()
            deadline = time.monotonic() + _CLOSED_WITHIN
            # Pulumi's own thread may still be at work on it, and stop there on an error.
            while not loop.is_closed() and time.monotonic() < deadline and (loop.is_running() or not _is_idle(loop)):
                time.sleep(0.05)
            if loop.is_running() or loop.is_closed():
                continue
            if unfinished := asyncio.all_tasks(loop):
                for task in unfinished:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(unfinished, timeout=_CLOSED_WITHIN))
            loop.close()

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
                raise locks.refusal(owners, spell(self._environment), self._project) from error
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


def _is_idle(loop: asyncio.AbstractEventLoop) -> bool:
    time.sleep(0.2)
    return not loop.is_running()


def projects_of(settings: Settings) -> tuple[Project, ...]:
    """In the order of standing up: no cluster is made where one exists. Raises Refused for the local target."""
    if settings.kubernetes is None:
        raise Refused(f"{settings.name} runs on this machine, not on Kubernetes", hint="slipway up")
    return ("services",) if settings.kubernetes.provider == "existing" else PROJECTS
