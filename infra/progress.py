"""What a run does, as one line for each resource: for a person who watches, and for a plan that can be read.

Names and changed fields only, never a value: a value may be a secret.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from pulumi.automation import EngineEvent, OpType
from pulumi.automation.events import DiagnosticEvent, PolicyEvent, StepEventMetadata, StepEventStateMetadata

from infra.failures import is_without_provider
from infra.plan import Change

Say = Callable[[str], None]

_SIGNS = {
    OpType.CREATE: "+ create",
    OpType.UPDATE: "~ update",
    OpType.DELETE: "- delete",
    OpType.REPLACE: "± replace",
    OpType.IMPORT: "= import",
}
# Reading is no change, and replacing is told once, not as the two steps that it is made of.
_UNCOUNTED = {OpType.CREATE_REPLACEMENT, OpType.DELETE_REPLACED, OpType.REFRESH, OpType.READ}
_MOST_FIELDS = 6


class Progress:
    """Follows the engine's events of one run."""

    def __init__(self, say: Say, *, planned: bool) -> None:
        self._say = say
        self._planned = planned
        self._begun: dict[str, float] = {}
        self._abandoned: set[str] = set()
        self._failed_creations: list[StepEventStateMetadata] = []
        self.steps: Counter[str] = Counter()
        """Resources by operation, components and providers left out."""
        self.errors: list[str] = []
        self.findings: list[str] = []
        """Of the policy pack."""
        self.changed: list[str] = []
        """URNs that were not left as they were."""
        self.planned: list[Change] = []
        """What would be changed; told as a whole when all is known, not as it comes."""

    @property
    def unanswered(self) -> list[StepEventStateMetadata]:
        """What was to be created when the provider died: it may exist, and the engine does not know it."""
        return [each for each in self._failed_creations if each.urn in self._abandoned]

    def begin_anew(self) -> Progress:
        """For another try of the same run: what was changed stays told, what failed is forgotten."""
        again = Progress(self._say, planned=self._planned)
        again.steps = Counter({step: count for step, count in self.steps.items() if step != OpType.SAME.value})
        again.changed = list(self.changed)
        return again

    def __call__(self, event: EngineEvent) -> None:
        """Take one event."""
        if event.resource_pre_event:
            self._begin(event.resource_pre_event.metadata)
        elif event.res_outputs_event:
            self._end(event.res_outputs_event.metadata)
        elif event.res_op_failed_event:
            step = event.res_op_failed_event.metadata
            self._say(f"  ! failed   {describe(step.urn)}")
            # A preview asks for nothing: what it could not plan is nowhere.
            if not self._planned and step.new and step.op in (OpType.CREATE, OpType.CREATE_REPLACEMENT):
                self._failed_creations.append(step.new)
        elif event.diagnostic_event:
            self._tell(event.diagnostic_event)
        elif event.policy_event:
            self._report(event.policy_event)

    def _begin(self, step: StepEventMetadata) -> None:
        self._begun[step.urn] = time.monotonic()
        if self._planned:
            self._count(step)

    def _end(self, step: StepEventMetadata) -> None:
        if not self._planned:
            self._count(step)

    def _count(self, step: StepEventMetadata) -> None:
        if not is_real(step.urn):
            return
        if step.op in _UNCOUNTED:
            return
        self.steps[step.op.value] += 1
        if step.op == OpType.SAME:
            return
        self.changed.append(step.urn)
        change = _change(step)
        if self._planned:
            self.planned.append(change)
            return
        took = time.monotonic() - self._begun.get(step.urn, time.monotonic())
        seconds = f" ({took:.1f} s)" if took >= 1 else ""
        where = f" in {change.namespace}" if change.namespace else ""
        self._say(f"  {change.sign:<9}  {change.kind} {change.name}{where}{change.fields}{seconds}")

    def _tell(self, diagnostic: DiagnosticEvent) -> None:
        text = _plain(diagnostic.message).strip()
        if not text or diagnostic.ephemeral or diagnostic.severity not in ("error", "warning"):
            return
        if text.startswith("using pulumi-") and "from $PATH" in text:
            return  # ours: engine.PROGRAMS
        where = f"{describe(diagnostic.urn)}: " if diagnostic.urn else ""
        if diagnostic.severity == "error":
            self.errors.append(f"{where}{text}")
            if diagnostic.urn and is_without_provider(text):
                self._abandoned.add(diagnostic.urn)
        else:
            self._say(f"  warning    {where}{text}")

    def _report(self, finding: PolicyEvent) -> None:
        where = f"{describe(finding.resource_urn)}: " if finding.resource_urn else ""
        text = f"{where}{_plain(finding.message).strip()}"
        self.findings.append(text)
        self._say(f"  policy     {text}")


def describe(urn: str) -> str:
    """Kind and name of a resource, as a person would say them: `Deployment registry`."""
    types, _, name = urn.split("::", 2)[2].partition("::")
    return f"{types.rpartition('$')[2].rpartition(':')[2]} {name}"


def is_real(urn: str) -> bool:
    """Something that stands somewhere: no component, no provider, no stack."""
    kind = urn.split("::", 3)[2].rpartition("$")[2]
    groups = ("kubernetes:helm.sh/v4:", "kubernetes:yaml/", "kubernetes:kustomize/")
    return not kind.startswith(("pulumi:", "slipway:", *groups))


def _change(step: StepEventMetadata) -> Change:
    state = step.new or step.old
    metadata = (state.inputs or {}).get("metadata") if state else None
    metadata = metadata if isinstance(metadata, dict) else {}
    kind, _, name = describe(step.urn).partition(" ")
    name = str(metadata.get("name") or name)
    sign = _SIGNS.get(step.op, step.op.value)
    return Change(sign, step.urn, kind, name, str(metadata.get("namespace") or ""), _fields(step))


def _fields(step: StepEventMetadata) -> str:
    names = sorted(step.detailed_diff or step.diffs or ())
    if step.op not in (OpType.UPDATE, OpType.REPLACE) or not names:
        return ""
    rest = f" and {len(names) - _MOST_FIELDS} more" if len(names) > _MOST_FIELDS else ""
    return f" [{', '.join(names[:_MOST_FIELDS])}{rest}]"


def _plain(message: str) -> str:
    """Without the engine's colour marks: `<{%fg 1%}>`."""
    parts = message.split("<{%")
    return parts[0] + "".join(part.partition("%}>")[2] for part in parts[1:])
