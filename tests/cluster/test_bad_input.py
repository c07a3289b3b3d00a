"""What a user can get wrong on a cluster, typed and answered: exit 2, key or object, remedy, nothing touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.components import names
from slipway.environment import open_environment
from slipway.targets.kubernetes.requirements import rights_of
from tests.cluster.lab.processes import free_ports
from tests.cluster.site import Said, Site, open_site
from tests.cluster.tools.build import module_folder

pytestmark = pytest.mark.cluster

ROUTES = "httproutes.gateway.networking.k8s.io"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def nothing_is_made(site: Site) -> Iterator[None]:
    """Whatever all these tests type, no object and no state comes of it."""
    before = site.cluster.inventory()
    yield
    assert {each for each in site.cluster.inventory() - before if "slipway" in each} == set()
    assert not list(site.state.rglob(".pulumi/stacks/**/*.json"))


def refused(site: Site, file: Path, *arguments: str, **variables: str) -> str:
    """What is said, without traceback, when bad input is met."""
    said: Said = site.type(file, *(arguments or ("up", "--yes")), **variables)
    assert said.code == 2, said.text
    assert "Traceback" not in said.text
    return said.err


def test_every_mistake_of_the_file_is_told_at_once(site: Site) -> None:
    file = site.write_environment(
        "mistaken", parts='pipelines.engine = "kfp"\ngatway.enabled = true\nqueueing.gpus = 1', more='profil = "full"'
    )
    text = refused(site, file)
    assert "kubernetes.profil: unknown key" in text
    assert "kubernetes.parts.gatway: unknown key" in text
    assert "hint: did you mean" in text
    file.write_text(file.read_text().replace('target = "kubernetes"', 'target = "kubernets"', 1))
    assert re.search(r"target: 'kubernets'.*\n +hint: .*kubernetes", refused(site, file))


def test_keys_of_two_profiles_do_not_mix(site: Site) -> None:
    text = refused(site, site.write_environment("mixed", parts='pipelines.engine = "kfp"'))
    assert "kubernetes.parts.pipelines.engine: 'kfp' belongs to profile full" in text
    assert 'hint: profile = "full", or engine = "job"' in text


def test_gpus_are_asked_for_where_no_node_has_one(site: Site) -> None:
    text = refused(site, site.write_environment("gpus", parts="queueing.gpus = 1"))
    assert "GPUs: 0, and kubernetes.parts.queueing.gpus ask for them" in text
    assert "kubernetes.parts.gpu.enabled = true" in text


def test_a_missing_kubeconfig(site: Site) -> None:
    text = refused(site, site.write_environment("lost", kubeconfig=site.folder / "none"))
    assert f"kubernetes.kubeconfig: {site.folder / 'none'} is not there" in text
    assert "hint: set kubernetes.kubeconfig, or KUBECONFIG" in text


def test_an_unknown_context(site: Site) -> None:
    text = refused(site, site.write_environment("elsewhere", more='context = "production"'))
    assert "kubernetes.context: production is not in" in text
    assert "hint: one of: lab" in text


@pytest.mark.parametrize("command", ["preview", "up", "down"])
def test_a_cluster_that_does_not_answer(site: Site, command: str) -> None:
    (port,) = free_ports(1)
    kubeconfig = site.folder / "unreachable.kubeconfig"
    kubeconfig.write_text(site.cluster.kubeconfig.read_text().replace(site.cluster.url, f"https://127.0.0.1:{port}"))
    file = site.write_environment("unreachable", kubeconfig=kubeconfig)
    text = refused(site, file, command)
    assert f"kubernetes.kubeconfig: https://127.0.0.1:{port} does not answer: " in text
    assert "hint: is the cluster up, and reachable from here?" in text


def test_rights_that_are_missing_are_named(site: Site) -> None:
    file = site.write_environment("weak")
    settings = open_environment(str(file)).settings.kubernetes
    assert settings is not None
    rules = [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
        for right in rights_of(settings)
        if right.resource != "secrets"
    ]
    for rule in rules:
        if rule["resources"] == ["customresourcedefinitions"]:
            rule["verbs"] = ["get"]
    site.create_account("weak", rules)
    kubeconfig = site.cluster.kubeconfig_of("weak", "default")
    text = refused(site, site.write_environment("weak", kubeconfig=kubeconfig))
    assert (
        "rights: may not get/list/watch/create/patch/delete secrets; "
        "list/watch/create/patch/delete customresourcedefinitions.apiextensions.k8s.io\n" in text
    )
    assert "hint: a context of a cluster administrator" in text


def test_a_user_whom_the_cluster_does_not_know(site: Site) -> None:
    kubeconfig = site.folder / "stranger.kubeconfig"
    site.create_account("stranger", [])
    text = site.cluster.kubeconfig_of("stranger", "default").read_text()
    kubeconfig.write_text(re.sub(r'"token": "[^"]*"', '"token": "not-a-token"', text))
    text = refused(site, site.write_environment("stranger", kubeconfig=kubeconfig))
    assert "401 Unauthorized" in text
    assert "hint: log in again" in text
    assert "not-a-token" not in text


def test_a_definition_of_another_release_is_named_and_left(site: Site) -> None:
    name = "certificates.cert-manager.io"
    before = site.cluster.get("crd", name)
    text = refused(site, site.write_environment("twice", existing=False))
    assert f"definition {name}: there already, of Helm release tools/certs" in text
    assert "hint: kubernetes.parts.cert_manager.existing = true: then it is used, and never deleted" in text
    assert site.cluster.get("crd", name) == before


def test_a_definition_of_an_older_version_is_named_and_left(site: Site) -> None:
    source = module_folder("envoy-gateway", "sigs.k8s.io/gateway-api") / "config" / "crd" / "standard"
    site.cluster.apply_files([source / "gateway.networking.k8s.io_httproutes.yaml"])
    try:
        site.cluster.kubectl(
            "annotate", "crd", ROUTES, "--overwrite", "gateway.networking.k8s.io/bundle-version=v1.4.1"
        )
        for existing in ("true", "false"):
            text = refused(site, site.write_environment("old", parts=f"gateway.existing = {existing}"))
            assert f"definition {ROUTES}: is v1.4.1, older than v1.6.0" in text
            assert "hint: upgrade what brought it" in text
        assert site.cluster.get("crd", ROUTES) is not None
    finally:
        site.cluster.delete("crd", ROUTES)


def test_a_chart_that_the_mirror_lacks_or_that_was_changed(site: Site) -> None:
    file = site.write_environment("mirrored")
    (chart,) = site.mirror.glob("charts/kueue-*.tgz")
    content = chart.read_bytes()
    try:
        chart.write_bytes(content + b"\0")
        text = refused(site, file)
        assert f"charts.kueue in kubernetes.mirror.dir: charts/{chart.name} is sha256:" in text
        assert f"remove {chart}, and slipway mirror pull {site.mirror}" in text
        chart.unlink()
        text = refused(site, file)
        assert f"charts.kueue in kubernetes.mirror.dir: charts/{chart.name} is not there" in text
    finally:
        chart.write_bytes(content)


def test_digests_that_nobody_looked_up(site: Site) -> None:
    file = site.write_environment("unpinned")
    file.write_text(file.read_text().replace(f'mirror.dir = "{site.mirror}"\n', ""))
    text = refused(site, file)
    assert re.search(r"infra/versions.toml: no digest of charts\..*images\.", text)
    assert "slipway mirror pull DIR --no-images looks them up" in text


def test_a_passphrase_file_that_is_not_there(site: Site) -> None:
    lost = site.folder / "passphrase"
    file = site.write_environment("forgotten", more=f'backend.passphrase_file = "{lost}"')
    text = refused(site, file)
    assert f"kubernetes.backend.passphrase_file: {lost} is not there" in text
    assert "hint: put the file back from your backup" in text


def test_pulumi_that_is_not_there(site: Site) -> None:
    text = refused(site, site.write_environment("toolless"), SLIPWAY_TOOLS="", PATH="/usr/bin:/bin")
    assert "pulumi: the Pulumi command line is not installed" in text
    assert "hint: " in text
    assert names.DATA not in {item["metadata"]["name"] for item in site.cluster.list("namespaces")}


def test_doctor_examines_the_cluster_and_names_a_remedy_for_every_failure(
    site: Site, tell: Callable[[str], None]
) -> None:
    said = site.type(site.write_environment("mirrored"), "doctor")
    tell(said.transcript("slipway doctor"))
    assert said.code == 1  # a control plane without nodes, on a machine without registries
    lines = said.out.splitlines()
    failed = [place for place, line in enumerate(lines) if line.startswith("FAIL")]
    assert failed
    assert all(lines[place + 1].split(maxsplit=1)[0] == "remedy:" for place in failed)
    assert any("nodes are ready" in lines[place] for place in failed)
    for good in ("Kubernetes 1.34 to 1.36", "rights", "namespace cert-manager", "storage class"):
        assert any(line.startswith(f"ok    {good}") for line in lines), good
    assert any("certificates.cert-manager.io there, of Helm release tools/certs" in line for line in lines)
