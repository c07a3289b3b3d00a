"""What the program would create, without an engine, a provider or a cluster: for the table of requests and for tests.

A chart or manifest is one resource here; what it renders only the real provider knows. Nothing is sent anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import mocks, rpc, settings, stack

from infra.components import object_store


@dataclass(frozen=True)
class Recorded:
    """One resource as the program registered it; `inputs` as Kubernetes spells them, secrets in clear."""

    urn: str
    type: str
    name: str
    inputs: dict[str, Any]
    parent: str
    depends_on: frozenset[str]
    """URNs; a component that was named stands with all its children."""
    existing: bool
    """Read, not created."""
    secret_keys: frozenset[str]
    """Top-level inputs that were marked secret, in whole or in part."""
    transforms: tuple[Callable[..., Any], ...]

    @property
    def kind(self) -> str:
        return str(self.inputs.get("kind", ""))

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self.inputs.get("metadata") or {})

    @property
    def where(self) -> str:
        """`Deployment/slipway-system/registry`."""
        parts = (self.kind, self.metadata.get("namespace"), self.metadata.get("name"))
        return "/".join(str(part) for part in parts if part)


@dataclass
class Recording:
    """All resources in the order of registration."""

    resources: list[Recorded] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def objects(self) -> list[Recorded]:
        """Those that are Kubernetes objects and would be created."""
        return [each for each in self.resources if each.kind and "metadata" in each.inputs and not each.existing]

    def of_kind(self, *kinds: str) -> Iterator[Recorded]:
        return (each for each in self.objects() if each.kind in kinds)

    def find(self, where: str) -> Recorded:
        """The object called `Kind/namespace/name`. Raises KeyError."""
        for each in self.objects():
            if each.where == where:
                return each
        raise KeyError(where)

    def components(self, kind: str) -> list[Recorded]:
        """Components of one class, as `HelmChart`."""
        return [each for each in self.resources if each.type == f"slipway:components:{kind}"]

    def below(self, component: Recorded) -> Iterator[Recorded]:
        """Every resource inside a component, at any depth."""
        for each in self.resources:
            if each.parent == component.urn:
                yield each
                yield from self.below(each)


@dataclass(frozen=True)
class Answers:
    """What a cloud would say. Without it outputs are inputs, and every question is answered with nothing."""

    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Type of resource -> what is known of it once it is made, besides its inputs; `{name}` in a text is its own."""
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Function -> its result."""


def record(
    program: Callable[[], None],
    *,
    project: str = "slipway-services",
    name: str = "recorded",
    preview: bool = False,
    answers: Answers | None = None,
) -> Recording:
    """Run an inline program and write down what it registers. Raises what the program raises."""
    recording = Recording()

    async def run() -> None:
        # Inside the running loop: the mocks make the root resource at once, and would wait for another loop for ever.
        monitor = _Monitor(recording, answers or Answers())
        mocks.set_mocks(monitor.mocks, project=project, stack=name, preview=preview, monitor=monitor)
        await stack.run_pulumi_func(program)
        root = settings.get_root_resource()
        if isinstance(root, stack.Stack):
            recording.outputs = await pulumi.Output.all(**root.outputs).future() or {}

    try:
        asyncio.run(run())
    finally:
        settings.reset_options()
    return recording


class _Mocks(mocks.Mocks):
    """Gives back what it is given, and what the answers add."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        added = {
            key: value.replace("{name}", args.name) if isinstance(value, str) else value
            for key, value in self.answers.outputs.get(args.typ, {}).items()
        }
        return args.resource_id or f"{args.name}-id", _stack_outputs(args) or {**args.inputs, **added}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        return dict(self.answers.calls.get(args.token, {})), []


class _Monitor(mocks.MockMonitor):
    """Sees each request whole: the mocks are shown neither dependencies nor parents."""

    def __init__(self, recording: Recording, answers: Answers) -> None:
        self.mocks = _Mocks(answers)
        super().__init__(self.mocks)
        self.recording = recording

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  (the protocol's name)
        with _loop_of_this_thread():
            response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.type != "pulumi:pulumi:Stack":
            self._write_down(request, response.urn, request.object, existing=False)
        return response

    def Invoke(self, request: Any) -> Any:  # noqa: N802
        with _loop_of_this_thread():
            return super().Invoke(request)  # type: ignore[no-untyped-call]

    def ReadResource(self, request: Any) -> Any:  # noqa: N802
        with _loop_of_this_thread():
            response = super().ReadResource(request)  # type: ignore[no-untyped-call]
        self._write_down(request, response.urn, request.properties, existing=True)
        return response

    def _write_down(self, request: Any, urn: str, properties: Any, *, existing: bool) -> None:
        inputs = rpc.deserialize_properties(properties)
        self.recording.resources.append(
            Recorded(
                urn=urn,
                type=request.type,
                name=request.name,
                inputs=_plain(inputs),
                parent=request.parent,
                depends_on=frozenset(request.dependencies),
                existing=existing,
                secret_keys=frozenset(key for key, value in inputs.items() if _holds_a_secret(value)),
                transforms=() if existing else tuple(mocks._resolve_callbacks(request.transforms)),
            )
        )


@contextmanager
def _loop_of_this_thread() -> Iterator[None]:
    """The mock monitor is called on threads of a pool and leaves an open event loop on each; this one is closed."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _stack_outputs(args: mocks.MockResourceArgs) -> dict[str, Any] | None:
    """A cluster's stack that answers every question about itself."""
    if args.typ != "pulumi:pulumi:StackReference":
        return None
    endpoints = {
        "database": {"host": "database.example.com", "username": "administrator", "password": "recorded"},
        "cache": {"host": "cache.example.com", "password": "recorded"},
        "object_store": {
            "url": "https://objects.example.com", "region": "region-1", "bucket": "slipway",
            "keys": {
                user.name: {"access_key": f"recorded-{user.name}", "secret_key": "recorded"}
                for user in (*object_store.USERS, object_store.PIPELINES)
            },
        },
    }  # fmt: skip
    outputs = {"kubeconfig": "recorded", "endpoints": endpoints, "gpu": {}}
    return {"name": args.inputs.get("name"), "outputs": outputs, "secretOutputNames": ["kubeconfig", "endpoints"]}


def _plain(value: Any) -> Any:
    """Without the wrapping of secrets, and with whole numbers as such: the wire knows only floats."""
    if rpc.is_rpc_secret(value):
        return _plain(rpc.unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _holds_a_secret(value: Any) -> bool:
    if rpc.is_rpc_secret(value):
        return True
    if isinstance(value, dict):
        return any(_holds_a_secret(each) for each in value.values())
    return isinstance(value, list | tuple) and any(_holds_a_secret(each) for each in value)
