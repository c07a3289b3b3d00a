"""How a plan reads: by part, in the order of standing up, one line for each kind."""

from __future__ import annotations

from infra.plan import Change, list_lines


def change(
    name: str, *, part: str = "Registry", kind: str = "Secret", namespace: str = "ns", fields: str = ""
) -> Change:
    sign = "~ update" if fields else "+ create"
    chain = f"slipway:components:{part}$slipway:components:Workload$" if part else ""
    return Change(
        sign,
        f"urn:pulumi:e::slipway-services::{chain}kubernetes:core/v1:{kind}::x-{name}",
        kind,
        name,
        namespace,
        fields,
    )


def test_a_plan_is_told_by_part_and_kind() -> None:
    changes = [
        change("gateway", part="EnvoyGateway", kind="Deployment"),
        change("b"),
        change("ns", kind="Namespace", namespace=""),
        change("a", part="EnvoyGateway"),
        change("c"),
        change("mlflow", kind="Deployment", fields=" [spec.replicas]"),
        change("alone", part=""),
    ]
    assert list(list_lines(changes)) == [
        "  envoy gateway (2)",
        "    + create  Deployment gateway in ns",
        "    + create  Secret a in ns",
        "  registry (4)",
        "    + create  Namespace ns",
        "    + create  Secret b, c in ns",
        "    ~ update  Deployment mlflow [spec.replicas] in ns",
        "  the rest (1)",
        "    + create  Secret alone in ns",
    ]


def test_a_long_list_is_cut_and_counted() -> None:
    (_, line) = list_lines([change(str(number)) for number in range(10)])
    assert line.endswith("Secret 0, 1, 2, 3, 4, 5, 6, 7 and 2 more in ns")


def test_no_change_is_no_line() -> None:
    assert list(list_lines([])) == []
