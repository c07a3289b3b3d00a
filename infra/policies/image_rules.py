"""Rules about the images of a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator

from infra.policies.objects import UNKNOWN
from infra.policies.pods import Container, Pod
from slipway.mirror.versions import RETIRED


def image_by_digest(pod: Pod) -> Iterator[str]:
    """An image is named by digest: the same bytes for ever, whoever moves its tag."""
    for container, image in _images(pod):
        if not re.search(r"@sha256:[0-9a-f]{64}$", image):
            yield f"{container.where} runs {image or 'no image'}, which has no digest; `slipway mirror pull` finds it"


def image_not_latest(pod: Pod) -> Iterator[str]:
    """An image's tag is a version: neither `latest` nor left out."""
    for container, image in _images(pod):
        name = image.partition("@")[0].rpartition("/")[2]
        tag = name.partition(":")[2]
        if image and (tag == "latest" or (not tag and "@" not in image)):
            yield f"{container.where} runs {image}, whose tag moves; name a version"


def image_not_retired(pod: Pod) -> Iterator[str]:
    """No image comes from a source that is no longer maintained."""
    for container, image in _images(pod):
        for retired, why in RETIRED.items():
            if re.search(rf"(^|[/.-]){re.escape(retired)}([/.:@-]|$)", image.lower()):
                yield f"{container.where} runs {image}: {why}"


def _images(pod: Pod) -> Iterator[tuple[Container, str]]:
    for container in pod.containers():
        image = str(container.body.get("image") or "")
        if image != UNKNOWN:
            yield container, image
