"""What a backup holds, and how it is written down: a tar file, its manifest, and the signature of the manifest.

    ledger.db, labels.db, ...   the files of the state folder, under the names that they have there
    MANIFEST.json               sha256 and size of each of them, and where and when the backup was made
    MANIFEST.pub                the public key of the environment that made it; its bundles are signed by that key
    MANIFEST.sig                ECDSA signature (P-256, SHA-256, DER) of MANIFEST.json by that key

No private key, no token and no log is in it.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field

from slipway.errors import Refused

MANIFEST, PUBLIC_KEY, SIGNATURE = "MANIFEST.json", "MANIFEST.pub", "MANIFEST.sig"

FOLDERS = ("registry", "features", "events", "inference_log", "spool", "bundles", "pipelines", "reports")
"""What is taken of the state folder beside its databases and the clock: everything but secrets, run and logs."""
DATABASES = ("ledger.db", "labels.db")
"""Taken first, in this order: all that the ledger names is in the folders by the time when they are read."""
CLOCK = "clock"
EXCLUDED = ("pipelines/cache", "pipelines/runs")
"""Can be made again."""


class ArchivedFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class ArchiveManifest(BaseModel):
    """The manifest of a backup."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    environment: str
    made: datetime
    """Wall clock, UTC."""
    files: dict[str, ArchivedFile]


def fingerprint(public_key: bytes) -> str:
    """How people compare a public key (PEM): the first 16 bytes of the sha256 of its DER form, in hex."""
    key = _load(public_key)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()[:32]


def sign(data: bytes, private_key: bytes) -> bytes:
    """The signature of `data` by a private key (PEM)."""
    key = serialization.load_pem_private_key(private_key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused("the signing key is not an elliptic-curve key")
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def check_signature(data: bytes, signature: bytes, public_key: bytes) -> None:
    """Raises Refused unless the other half of `public_key` (PEM) has signed `data`."""
    try:
        _load(public_key).verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(f"{MANIFEST}: the signature does not hold: the archive was changed") from None


def _load(public_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(public_key)
    except ValueError as error:
        raise Refused(f"{PUBLIC_KEY}: not a public key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Refused(f"{PUBLIC_KEY}: not an elliptic-curve key")
    return key
