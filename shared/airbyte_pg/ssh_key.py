"""A private key for SSH, from the text that a configuration has. Imports paramiko: only where there is a tunnel."""

from __future__ import annotations

import io

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from paramiko import ECDSAKey, Ed25519Key, PKey, RSAKey

from airbyte_pg.errors import ConfigError
from airbyte_pg.pem import Pem, read_pem

_OPENSSH = "OPENSSH PRIVATE KEY"
_KINDS: tuple[tuple[type, type[PKey]], ...] = (
    (RSAPrivateKey, RSAKey),
    (EllipticCurvePrivateKey, ECDSAKey),
    (Ed25519PrivateKey, Ed25519Key),
)
_FORMS = "Give an RSA, ECDSA or Ed25519 key, as PEM or OpenSSH text or base64 of it."


def private_key(given: str, passphrase: str | None) -> PKey:
    """The key in ``given``: RSA, ECDSA or Ed25519; PEM (PKCS#1, SEC 1, PKCS#8) or OpenSSH, as ``read_pem`` takes it.

    Raises ConfigError: no key, one of another kind, a wrong passphrase or none where one is needed.
    """
    try:
        pem = read_pem(given)
    except ValueError:
        raise ConfigError(f"ssh_key is no private key{_seems(given)}.", remedy=_FORMS) from None
    label = pem.labels[0]
    if not label.endswith("PRIVATE KEY"):
        raise ConfigError(f"ssh_key is no private key, but a {label.lower()}.", remedy=_FORMS)
    key = _loaded(pem, passphrase.encode() if passphrase else None)
    for kind, of_paramiko in _KINDS:
        if isinstance(key, kind):
            # The one form in which paramiko reads every kind.
            plain = key.private_bytes(  # type: ignore[attr-defined]
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            return of_paramiko.from_private_key(io.StringIO(plain.decode()))
    raise ConfigError("ssh_key is of a kind that is not supported.", remedy=_FORMS)


def _loaded(pem: Pem, passphrase: bytes | None) -> object:
    load = serialization.load_ssh_private_key if pem.labels[0] == _OPENSSH else serialization.load_pem_private_key
    try:
        try:
            return load(pem.text.encode(), passphrase)
        except TypeError:
            if passphrase is None:
                raise ConfigError(
                    "ssh_key has a passphrase, and none is configured.", remedy="Give ssh_key_passphrase."
                ) from None
            return load(pem.text.encode(), None)  # a passphrase that nobody asked for
    except UnsupportedAlgorithm:
        raise ConfigError("ssh_key is of a kind that is not supported.", remedy=_FORMS) from None
    except ValueError:
        if passphrase is not None:
            raise ConfigError(
                "ssh_key cannot be read with this passphrase.", remedy="Check ssh_key_passphrase and ssh_key."
            ) from None
        raise ConfigError("ssh_key is damaged: it cannot be read.", remedy=_FORMS) from None


def _seems(given: str) -> str:
    if given.startswith("PuTTY"):
        return ", but PuTTY's form of one (puttygen exports OpenSSH keys)"
    return ", but a public one" if given.startswith(("ssh-", "ecdsa-")) else ""
