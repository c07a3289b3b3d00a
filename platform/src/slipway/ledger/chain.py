"""The signed head of the event chain: who rewrites the whole chain would need the key as well.

The controller signs the head as it goes on; the file beside the ledger says which event it had seen last. It does not
replace `events.verify`, which finds changes inside the chain.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from slipway import signing
from slipway.environment import Environment
from slipway.errors import Problem, SlipwayError
from slipway.files import write_atomically
from slipway.ledger.database import Ledger
from slipway.ledger.events import canonical_json
from slipway.ledger.schema import EventRow


def head_file(environment: Environment) -> Path:
    """JSON: event, digest, signed (wall clock), signature (ECDSA P-256 with SHA-256 over the rest, base64)."""
    return environment.state.root / "ledger-head.json"


def sign_head(environment: Environment, ledger: Ledger) -> dict[str, Any] | None:
    """Sign the last event, unless that was done before; None when there are no events or no key yet."""
    with ledger.read() as session:
        last = session.execute(select(EventRow.id, EventRow.digest).order_by(EventRow.id.desc()).limit(1)).first()
    key = signing.private_key_of(environment)
    if last is None or not key.is_file():
        return None
    known = _read(environment)
    if known is not None and known.get("event") == last.id and known.get("digest") == last.digest:
        return known
    head: dict[str, Any] = {"event": last.id, "digest": last.digest, "signed": datetime.now(UTC).isoformat()}
    head["signature"] = _sign(key, canonical_json(head))
    write_atomically(head_file(environment), json.dumps(head, indent=2) + "\n")
    return head


def verify_head(environment: Environment, session: Session) -> list[Problem]:
    """Every way in which the signed head and the chain disagree. Empty also when nothing was signed yet."""
    where = head_file(environment).name
    if not head_file(environment).exists():
        return []
    head = _read(environment)
    if head is None or not _holds(signing.public_key_of(environment), head):
        return [Problem(where, "the signature does not hold", "was the file or the key pair replaced?")]
    row = session.get(EventRow, head["event"])
    if row is None or row.digest != head["digest"]:
        return [Problem(where, f"event {head['event']} is not the one that was signed: the chain was rewritten or cut")]
    return []


def export(environment: Environment, ledger: Ledger, file: Path) -> int:
    """Write every event as one JSON line, the signed head last, whole or not at all; how many events.

    Raises SlipwayError when there is no key to sign with.
    """
    from slipway.ledger import events

    head = sign_head(environment, ledger)
    if head is None:
        raise SlipwayError("events: there is nothing to sign, or no signing key", hint="slipway up makes the key")
    with ledger.read() as session:
        lines = [
            json.dumps(event, ensure_ascii=False) for event in events.export(session) if event["id"] <= head["event"]
        ]
    write_atomically(file, "\n".join([*lines, json.dumps({"head": head})]) + "\n")
    return len(lines)


def _read(environment: Environment) -> dict[str, Any] | None:
    try:
        head = json.loads(head_file(environment).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return head if isinstance(head, dict) else None


def _sign(key: Path, content: bytes) -> str:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise SlipwayError(f"{key}: is no elliptic-curve key")
    return base64.b64encode(private.sign(content, ec.ECDSA(hashes.SHA256()))).decode()


def _holds(key: Path, head: dict[str, Any]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    content = canonical_json({name: value for name, value in head.items() if name != "signature"})
    try:
        public = serialization.load_pem_public_key(key.read_bytes())
        if not isinstance(public, ec.EllipticCurvePublicKey):
            return False
        public.verify(base64.b64decode(str(head.get("signature", ""))), content, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, OSError):
        return False
    return {"event", "digest"} <= head.keys()
