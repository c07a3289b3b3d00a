"""Pulumi's property values as plain Python values, and back: secrets, values not known yet, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2

# From the engine's wire format: sdk/go/common/resource/properties.go.
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

Values = dict[str, Any]


def decode(properties: struct_pb2.Struct) -> tuple[Values, set[str]]:
    """Plain values, and the names of the properties that have a secret in them. Nulls are left out."""
    message = json_format.MessageToDict(properties)
    secret = {name for name, value in message.items() if _has_secret(value)}
    return {name: _plain(value) for name, value in message.items() if value is not None}, secret


def encode(values: Mapping[str, Any], secret: set[str]) -> struct_pb2.Struct:
    """The named properties become secrets, which the engine encrypts in its state."""
    wrapped = {
        name: {_SIGNATURE: _SECRET, "value": value} if name in secret else value for name, value in values.items()
    }
    return json_format.ParseDict(wrapped, struct_pb2.Struct())


def has_unknown(value: Any) -> bool:
    """Whether something in there is known only after another resource was made."""
    if isinstance(value, dict):
        return any(has_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in value)
    return bool(value == UNKNOWN)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        signature = value.get(_SIGNATURE)
        if signature in (_SECRET, _OUTPUT):
            return _plain(value["value"]) if "value" in value else UNKNOWN
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _has_secret(value: Any) -> bool:
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET or (value.get(_SIGNATURE) == _OUTPUT and value.get("secret")):
            return True
        return any(_has_secret(item) for item in value.values())
    return isinstance(value, list) and any(_has_secret(item) for item in value)
