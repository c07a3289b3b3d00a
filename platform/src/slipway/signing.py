"""Who made a bundle: an elliptic-curve key pair of this environment and the `model-signing` signature of a folder.

The private key never leaves `secrets/`; a backup does not hold it. Signatures are Sigstore bundles as written by the
`model-signing` library (OpenSSF Model Signing v1.0), made with a local key: no certificate, no transparency log.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway.environment import Environment
from slipway.errors import Refused, SlipwayError
from slipway.files import write_atomically

if TYPE_CHECKING:
    from model_signing import hashing

SIGNATURE = "slipway.sig"


def private_key_of(environment: Environment) -> Path:
    """PEM, readable by this user only."""
    return environment.state.signing_key


def public_key_of(environment: Environment) -> Path:
    """PEM; what a server verifies bundles with."""
    return environment.state.signing_public


def prepare(environment: Environment) -> None:
    """Make the key pair (NIST P-256) unless it exists; the public half is written again from the private one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from filelock import FileLock

    folder = environment.state.secrets
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / "signing.lock", timeout=30, mode=0o600):
        private, public = private_key_of(environment), public_key_of(environment)
        if not private.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            plain = serialization.NoEncryption()
            form = serialization.PrivateFormat.PKCS8
            write_atomically(private, key.private_bytes(serialization.Encoding.PEM, form, plain))
        if not public.exists():
            loaded = serialization.load_pem_private_key(private.read_bytes(), None)
            spki = serialization.PublicFormat.SubjectPublicKeyInfo
            write_atomically(public, loaded.public_key().public_bytes(serialization.Encoding.PEM, spki))


def sign_folder(folder: Path, private_key: Path) -> None:
    """Write the signature over every other file of `folder`. Raises SlipwayError when there is no key."""
    from model_signing import signing

    if not private_key.is_file():
        raise SlipwayError(f"{private_key}: there is no signing key", hint="slipway up makes one")
    config = signing.Config().use_elliptic_key_signer(private_key=private_key).set_hashing_config(_hashing())
    config.sign(folder, folder / SIGNATURE)


def verify_folder(folder: Path, public_key: Path) -> None:
    """Check that the signature was made by the other half of `public_key` over exactly the files that are there.

    A key that a restore has put beside it is as good: it signed the bundles of the restored archive. Reads the files
    but interprets none of them. Raises Refused, also for a signature file that is no signature.
    """
    refusals = []
    for key in (public_key, *sorted(public_key.parent.glob(trusted_key_file(Path(), "*").name))):
        try:
            return _verify_by(folder, key)
        except Refused as refusal:
            refusals.append(refusal)
    raise refusals[0]


def trusted_key_file(secrets: Path, fingerprint: str) -> Path:
    """Where a restore puts the public key of the environment that the archive came from."""
    return secrets / f"trusted-{fingerprint}.pub"


def _verify_by(folder: Path, public_key: Path) -> None:
    from model_signing import verifying

    if not public_key.is_file():
        raise Refused(f"{public_key}: there is no public key to verify bundles with", hint="slipway up makes one")
    config = verifying.Config().use_elliptic_key_verifier(public_key=public_key).set_hashing_config(_hashing())
    try:
        config.verify(folder, folder / SIGNATURE)
    except Exception as error:
        # The library lets whatever its parsers raise through (KeyError, binascii.Error, ...): all of it means "no".
        cause = str(error) or type(error).__name__
        raise Refused(f"{folder.name}: the signature does not hold: {cause}") from error


def _hashing() -> hashing.Config:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
