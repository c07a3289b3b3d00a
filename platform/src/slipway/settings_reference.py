"""Every key of an environment file as the manual shows it, read from the typed model: it cannot fall behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slipway.kubernetes_parts import FULL
from slipway.kubernetes_settings import KubernetesSettings
from slipway.section import Section
from slipway.settings import Settings


@dataclass(frozen=True)
class Key:
    """One key of an environment file."""

    path: str
    """Dotted, as error messages name it."""
    meaning: str
    default: str
    """As it would be written in TOML; `required` or `unset` where there is none."""
    allowed: str


def list_keys() -> list[Key]:
    """The keys of both targets, in the order of the model."""
    return list(_walk(Settings, ""))


def list_kubernetes_keys() -> list[Key]:
    """The keys that only target `kubernetes` has; defaults are those of profile core."""
    return list(_walk(KubernetesSettings, "kubernetes."))


def value_at(settings: Settings, path: str) -> str:
    """The value in force at a dotted path, as TOML."""
    value: Any = settings.model_dump(mode="json")
    for part in path.split("."):
        value = value[part]
    return _as_toml(value)


def list_in_force(settings: Settings) -> list[tuple[str, str]]:
    """(dotted path, value as TOML) of every key that the environment's target has."""
    keys = list_keys() + (list_kubernetes_keys() if settings.kubernetes else [])
    return [(key.path, value_at(settings, key.path)) for key in keys]


def render_markdown() -> str:
    """The page docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "An environment is one TOML file, chosen by `--env NAME` (`platform/environments/NAME.toml`) or `--env PATH`;",
        "`make` takes it as `ENV=`. Only what differs from a default needs to stand in it. Unknown keys are refused,",
        "and all mistakes are reported at once.",
        "",
        "`slipway config check FILE` checks a file, `slipway config show` prints what is in force, and",
        "`platform/environments/example.toml` is a file to copy from.",
        "",
        "This page is generated: `slipway config schema --markdown > docs/settings.md`.",
        "",
        *_table(list_keys()),
        "",
        "## On Kubernetes",
        "",
        'Only with `target = "kubernetes"`. Defaults are those of profile `core`; profile `full` changes these:',
        "",
        *(
            f"- `kubernetes.parts.{part}.{key} = {_as_toml(value)}`"
            for part, changes in FULL.items()
            for key, value in changes.items()
        ),
        "",
        *_table(list_kubernetes_keys()),
    ]
    return "\n".join(lines) + "\n"


def _table(keys: list[Key]) -> list[str]:
    return [
        "| Key | Default | Allowed | Meaning |",
        "|---|---|---|---|",
        *(f"| `{key.path}` | {_code(key.default)} | {key.allowed} | {key.meaning} |" for key in keys),
    ]


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    properties = model.model_json_schema(mode="validation").get("properties", {})
    for name, field in model.model_fields.items():
        if name == "kubernetes":
            continue  # a table of its own
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _walk(field.annotation, f"{prefix}{name}.")
        else:
            meaning = " ".join((field.description or "").split())
            yield Key(f"{prefix}{name}", meaning, _default_of(model, name, field), _allowed(properties[name], field))


def _default_of(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    # Dumped by the model, so that durations and paths look as they are written.
    return _as_toml(
        model.model_construct(**{name: value}).model_dump(mode="json", include={name}, warnings=False)[name]
    )


def _allowed(schema: dict[str, Any], field: FieldInfo) -> str:
    if "timedelta" in str(field.annotation):
        return "a duration: `50ms`, `30s`, `10m`, `36h`, `14d`"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "pattern" in schema:
        return f"text matching `{schema['pattern'].replace('|', chr(92) + '|')}`"
    if schema.get("type") == "integer":
        low, high = schema.get("minimum"), schema.get("maximum")
        return f"{low} to {high}" if high is not None else f"at least {low}"
    if schema.get("format") == "path" or any(item.get("format") == "path" for item in schema.get("anyOf", ())):
        return "a path"
    kind = str(schema.get("type", ""))
    return {"string": "text", "boolean": "`true` or `false`", "array": "a list of texts"}.get(kind, kind)


def _as_toml(value: object) -> str:
    return "unset" if value is None else json.dumps(value)


def _code(text: str) -> str:
    return text if text in ("required", "unset") else f"`{text}`"
