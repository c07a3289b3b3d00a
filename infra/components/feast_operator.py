"""Feast's operator, which runs feature stores. The store itself is another component."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names
from infra.components.chart import Manifest, ManifestArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests


@dataclass(frozen=True)
class FeastOperatorArgs:
    site: Site


class FeastOperator(Component):
    """The feature store's operator."""

    def __init__(self, name: str, args: FeastOperatorArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("features", name, args.site, opts)
        Manifest(
            "feast-operator",
            ManifestArgs(
                site=self.site,
                part=self.part,
                pin="feast_operator",
                namespace=names.FEATURES_OPERATOR,
                brings_namespace=True,
                pods={"feast-operator-controller-manager": Requests("10m", "64Mi", memory_limit="256Mi")},
            ),
            self._options(),
        )
        self.register_outputs({})
