"""Pulumi's provider protocol: what the engine calls, answered by the API server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import empty_pb2
from pulumi.provider import Provider
from pulumi.provider.server import ProviderServicer
from pulumi.runtime.proto import provider_pb2 as protocol

from tests.cluster.provider import objects, properties, rendering
from tests.cluster.provider.api_server import DELETED_WITHIN, ApiError, ApiServer, NotServed, Object
from tests.cluster.provider.construction import RENDERERS, Construction, report_skipped

VERSION = "4.34.2"
FIELD_MANAGER = "pulumi-kubernetes"
ABSENT_GROUPS = "SLIPWAY_TEST_ABSENT_GROUPS"
"""API groups, by commas, whose definitions this cluster cannot have: their objects are reported, not applied."""
NO_DEFINITION = "its definition is not there"
"""Reason in the report for such an object."""
NO_OPERATORS = "SLIPWAY_TEST_NO_OPERATORS"
"""`true` where nothing runs what operators' charts bring: their webhooks are applied, and never called."""
DIES_AFTER = "SLIPWAY_TEST_DIES_AFTER"
"""Name of an object after whose creation the provider ends as by `kill -9`, before it has answered."""

Answer = TypeVar("Answer")
_THREADS = 8
_CHANGES = {
    ("add", False): protocol.PropertyDiff.ADD,
    ("delete", False): protocol.PropertyDiff.DELETE,
    ("update", False): protocol.PropertyDiff.UPDATE,
    ("add", True): protocol.PropertyDiff.ADD_REPLACE,
    ("delete", True): protocol.PropertyDiff.DELETE_REPLACE,
    ("update", True): protocol.PropertyDiff.UPDATE_REPLACE,
}


class KubernetesServicer(ProviderServicer):
    """One configured provider, talking to one API server."""

    def __init__(self, engine_address: str) -> None:
        super().__init__(Provider(VERSION), [], engine_address)
        self._server: ApiServer | None = None
        self._namespace = ""
        self._mutable: frozenset[str] = frozenset()
        self._upsert = False
        self._force = os.environ.get("PULUMI_K8S_ENABLE_PATCH_FORCE") == "true"
        # Threads of our own: those of the event loop may all be waiting for children of a component to be registered,
        # which in turn wait for what is done here.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="api-server")
        # The SDK keeps what it knows of a construction in globals.
        self._constructing = asyncio.Lock()

    @property
    def server(self) -> ApiServer:
        if self._server is None:
            raise ValueError("the provider is not configured")
        return self._server

    async def GetSchema(self, request: Any, context: Any) -> Any:  # noqa: N802 -- names of the protocol
        return protocol.GetSchemaResponse(schema=json.dumps({"name": "kubernetes", "version": VERSION}))

    async def CheckConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.CheckResponse(inputs=request.news)

    async def DiffConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        # Another way to the same cluster replaces nothing; the engine is never told to rebuild the world.
        same = request.old_inputs == request.news
        changes = protocol.DiffResponse.DIFF_NONE if same else protocol.DiffResponse.DIFF_SOME
        return protocol.DiffResponse(changes=changes)

    async def Configure(self, request: Any, context: Any) -> Any:  # noqa: N802
        given, _ = properties.decode(request.args)

        def switch(name: str) -> bool:
            return str(given.get(name, "false")).lower() == "true"

        self._namespace = given.get("namespace", "")
        self._upsert = switch("upsertExistingObjects")
        names = {"ConfigMap": "enableConfigMapMutable", "Secret": "enableSecretMutable"}
        self._mutable = frozenset(kind for kind, name in names.items() if switch(name))
        await self._answer(context, lambda: self._open(given.get("kubeconfig", ""), given.get("context", "")))
        return protocol.ConfigureResponse(
            acceptSecrets=True, acceptResources=True, acceptOutputs=True, supportsPreview=True
        )

    def _open(self, kubeconfig: str, context: str) -> None:
        self._server = ApiServer(kubeconfig, context, FIELD_MANAGER)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        inputs, secret = properties.decode(request.news)
        before, _ = properties.decode(request.olds)
        token, name = _split(request.urn)
        complete = objects.complete(token, name, inputs, before, request.randomSeed, self._namespace)
        return protocol.CheckResponse(inputs=properties.encode(complete, secret))

    async def Diff(self, request: Any, context: Any) -> Any:  # noqa: N802
        before, _ = properties.decode(request.old_inputs)
        after, _ = properties.decode(request.news)
        changes = objects.list_changes(before, after, mutable=self._mutable)
        some = protocol.DiffResponse.DIFF_SOME if changes else protocol.DiffResponse.DIFF_NONE
        autonamed = objects.AUTONAMED in ((after.get("metadata") or {}).get("annotations") or {})
        replaces = sorted({change.path.partition(".")[0] for change in changes if change.replaces})
        return protocol.DiffResponse(
            changes=some,
            replaces=replaces,
            diffs=sorted({change.path.partition(".")[0] for change in changes}),
            deleteBeforeReplace=bool(replaces) and not autonamed,
            hasDetailedDiff=True,
            detailedDiff={
                change.path: protocol.PropertyDiff(kind=_CHANGES[change.what, change.replaces], inputDiff=True)
                for change in changes
            },
        )

    async def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        wanted, secret = properties.decode(request.properties)
        id_, outputs = await self._answer(context, lambda: self._create(request, wanted))
        return protocol.CreateResponse(id=id_, properties=properties.encode(outputs, _keep_secret(wanted, secret)))

    def _create(self, request: Any, wanted: Object) -> tuple[str, Object]:
        if properties.has_unknown(wanted):
            return "", wanted
        identity = objects.identify(_split(request.urn)[0], wanted)
        if _is_absent(identity):
            if not request.preview:
                report_skipped(_split(request.urn)[0], identity.id, NO_DEFINITION, {})
            return identity.id, wanted
        force = self._force_of(wanted)
        if request.preview:
            try:
                return "", objects.as_outputs(self._apply(wanted, force=True, dry_run=True, within=0))
            except NotServed:
                return "", wanted  # the definition is made by the same program
            except ApiError as error:
                if error.status == 404:
                    return "", wanted  # so is the namespace
                raise
        if not self._upsert and self.server.read(*identity):
            raise ApiError(409, f"{identity} is there already, and not ours: import it, or remove it")
        live = self.server.await_ready(self._apply(wanted, force=force, dry_run=False))
        if os.environ.get(DIES_AFTER) == identity.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return objects.identify(_split(request.urn)[0], live).id, objects.as_outputs(live)

    async def Read(self, request: Any, context: Any) -> Any:  # noqa: N802
        inputs, secret = properties.decode(request.inputs)
        before, more = properties.decode(request.properties)
        token, _ = _split(request.urn)
        found = await self._answer(context, lambda: self._read(token, request.id, inputs, before))
        if found is None:
            return protocol.ReadResponse()
        id_, inputs, outputs = found
        secret = _keep_secret(outputs, secret | more)
        return protocol.ReadResponse(
            id=id_, inputs=properties.encode(inputs, secret), properties=properties.encode(outputs, secret)
        )

    def _read(self, token: str, id_: str, inputs: Object, before: Object) -> tuple[str, Object, Object] | None:
        identity = objects.identify(token, inputs or before, id_)
        if _is_absent(identity):
            return id_, inputs, before
        live = self.server.read(*identity)
        if live is None:
            return None
        if inputs:
            applied = self._apply(inputs, force=True, dry_run=True)
            drifted = objects.find_drift(
                inputs, objects.without_server_fields(applied), objects.without_server_fields(live)
            )
        else:
            drifted = objects.without_server_fields(live)
        return identity.id, drifted, objects.as_outputs(live)

    async def Update(self, request: Any, context: Any) -> Any:  # noqa: N802
        wanted, secret = properties.decode(request.news)
        outputs = await self._answer(context, lambda: self._update(request, wanted))
        return protocol.UpdateResponse(properties=properties.encode(outputs, _keep_secret(wanted, secret)))

    def _update(self, request: Any, wanted: Object) -> Object:
        if properties.has_unknown(wanted) or _is_absent(objects.identify(_split(request.urn)[0], wanted)):
            return wanted
        force = self._force_of(wanted) or request.preview
        live = self._apply(wanted, force=force, dry_run=request.preview)
        return objects.as_outputs(live if request.preview else self.server.await_ready(live))

    async def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        before, _ = properties.decode(request.properties)
        identity = objects.identify(_split(request.urn)[0], before, request.id)
        if not _is_absent(identity):
            await self._answer(context, lambda: self.server.delete(*identity, request.timeout or DELETED_WITHIN))
        return empty_pb2.Empty()

    async def Construct(self, request: Any, context: Any) -> Any:  # noqa: N802
        inputs, _ = properties.decode(request.inputs)
        rendered: list[Object] = []
        missing = ""
        if request.type not in RENDERERS:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{request.type} is not made by this provider")
        # The published provider renders nothing either while an input is not known.
        if not properties.has_unknown(inputs):
            try:
                rendered = await self._answer(context, lambda: RENDERERS[request.type](inputs, request.name))
            except rendering.NotAvailable as error:
                missing = str(error)
                if not request.dryRun:
                    report_skipped(request.type, request.name, missing, inputs)
        async with self._constructing:
            self.provider = Construction(VERSION, inputs, rendered, missing)
            return await super().Construct(request, context)

    async def Cancel(self, request: Any, context: Any) -> Any:  # noqa: N802
        return empty_pb2.Empty()

    def _apply(self, wanted: Object, **how: Any) -> Object:
        silent = os.environ.get(NO_OPERATORS) == "true"
        return self.server.apply(objects.silence_webhooks(wanted) if silent else wanted, **how)

    def _force_of(self, wanted: Object) -> bool:
        annotations = (wanted.get("metadata") or {}).get("annotations") or {}
        return self._force or annotations.get(objects.FORCE) == "true"

    async def _answer(self, context: Any, work: Callable[[], Answer]) -> Answer:
        """Run in a thread; what the API server refuses becomes the engine's error, in the API server's words."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ApiError as error:
            hint = f" (conflicts are settled by the annotation {objects.FORCE})" if error.reason == "Conflict" else ""
            await context.abort(grpc.StatusCode.UNKNOWN, f"{error}{hint}")
        except (NotServed, ValueError, OSError) as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        raise AssertionError("abort does not return")


def _split(urn: str) -> tuple[str, str]:
    """Type and name of a resource: `urn:pulumi:<stack>::<project>::<parent types>$<type>::<name>`."""
    types, name = urn.split("::", 3)[2:]
    return types.rpartition("$")[2], name


def _keep_secret(values: Object, secret: set[str]) -> set[str]:
    """A Secret's contents are secret even where the program did not say so."""
    return secret | ({"data", "stringData"} & set(values) if values.get("kind") == "Secret" else set())


def _is_absent(identity: objects.Identity) -> bool:
    group = identity.api_version.rpartition("/")[0]
    return bool(group) and group in os.environ.get(ABSENT_GROUPS, "").split(",")
