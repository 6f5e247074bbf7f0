"""Logging in to an SSH server: its host key, our key or password, and what is said when it does not work.

Imports paramiko: only where there is a tunnel.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import socket
import sys
from dataclasses import dataclass

import paramiko

from airbyte_pg.errors import ConfigError, ConnectorError, TransientError, Unreachable
from airbyte_pg.ssh_key import private_key
from airbyte_pg.tunnel import Order

# As Airbyte's tunnel does.
_TIMEOUT_S = 15.0
# A peer whose kernel acknowledges nothing for so long is gone.
_SILENCE_S = 30

_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?")
_PUBLIC_KEY = re.compile(r"\b((?:ssh|ecdsa)-[a-z0-9@.-]+)\s+([A-Za-z0-9+/]+=*)")
# Which algorithms a host key of a type may sign with, where they are not called the same.
_SIGNED_BY = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True)
class Pins:
    """The host keys that are accepted: fingerprints, and the types of keys where all of them are known."""

    fingerprints: frozenset[str]
    types: frozenset[str]


def pins(given: str) -> Pins:
    """The keys and fingerprints in ``given``: lines of known_hosts, public keys, ``SHA256:…``. Raises ConfigError."""
    bare = {f"SHA256:{found}" for found in _FINGERPRINT.findall(given)}
    fingerprints, types = set(bare), set()
    for kind, encoded in _PUBLIC_KEY.findall(given):
        try:
            fingerprints.add(fingerprint(base64.b64decode(encoded, validate=True)))
        except binascii.Error:
            continue
        types.add(kind)
    if not fingerprints:
        raise ConfigError(
            "tunnel_host_key is neither a public key nor a fingerprint.",
            remedy="Give a line of `ssh-keyscan`, or SHA256:… as `ssh-keygen -l` prints it.",
        )
    return Pins(frozenset(fingerprints), frozenset() if bare else frozenset(types))


def fingerprint(key: bytes) -> str:
    """SHA256:… of a public key, as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def log_in(order: Order) -> tuple[paramiko.Transport, str]:
    """A session that is logged in, and the fingerprint of the server's key. Raises ConfigError by cause."""
    # Before anything is said to anybody.
    key = private_key(order.key, order.passphrase) if order.key is not None else None
    accepted = pins(order.host_key) if order.host_key else None
    # Its window of 2 MiB a connection is left as it is: paramiko moves what it has not handed out yet with each read,
    # so larger ones were slower (64 MiB: a third).
    transport = paramiko.Transport(_connected(order))
    try:
        shown = _met(transport, accepted)
        if key is not None:
            transport.auth_publickey(order.user, key)
        else:
            transport.auth_password(order.user, order.password or "")
    except ConnectorError:
        transport.close()
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise _why(error, order) from error
    return transport, shown


def _why(error: Exception, order: Order) -> ConnectorError:
    if isinstance(error, paramiko.BadAuthenticationType):
        return ConfigError(
            f"The SSH server does not allow this way to log in, only {', '.join(error.allowed_types)}.",
            remedy="Choose the other tunnel_method.",
        )
    if isinstance(error, paramiko.AuthenticationException) and order.key is not None:
        return ConfigError(
            "The SSH server refused user and key.",
            remedy="Check tunnel_user, and that the public half of ssh_key is in the user's authorized_keys there.",
        )
    if isinstance(error, paramiko.AuthenticationException):
        return ConfigError(
            "The SSH server refused user and password.", remedy="Check tunnel_user and tunnel_user_password."
        )
    return ConfigError(
        "What answers at tunnel_host and tunnel_port does not speak SSH as we do, or hung up.",
        remedy="Check both, and the log of the SSH server.",
        detail=type(error).__name__,
    )


def _connected(order: Order) -> socket.socket:
    try:
        connected = socket.create_connection((order.tunnel_host, order.tunnel_port), _TIMEOUT_S)
    except socket.gaierror as error:
        raise Unreachable("The name of the SSH server (tunnel_host) is unknown.", remedy="Check it.") from error
    except ConnectionRefusedError as error:
        raise Unreachable(
            "Nothing listens at tunnel_host and tunnel_port.", remedy="Check both, and the firewall."
        ) from error
    except OSError as error:
        raise Unreachable(
            "The SSH server (tunnel_host) did not answer in time or cannot be reached.",
            remedy="Check host, port and firewall.",
            detail=f"errno {error.errno}",
        ) from error
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_S * 1000)
    return connected


def _met(transport: paramiko.Transport, accepted: Pins | None) -> str:
    if accepted is not None and accepted.types:
        options = transport.get_security_options()
        named = [name for kind in accepted.types for name in _SIGNED_BY.get(kind, (kind,))]
        options.key_types = [name for name in options.key_types if name in named] or options.key_types
    transport.start_client(timeout=_TIMEOUT_S)
    key = transport.get_remote_server_key()
    shown = fingerprint(key.asbytes())
    if accepted is not None and shown not in accepted.fingerprints:
        raise ConfigError(
            f"The SSH server's host key is not the one in tunnel_host_key: it shows {key.get_name()} {shown}.",
            remedy="If that is the server's, put it there (a fingerprint alone must be of the type that is shown); "
            "otherwise somebody stands between.",
        )
    return shown


def refusal(error: paramiko.ChannelException) -> ConnectorError:
    """Why the server does not lead a connection on (RFC 4254 section 5.1)."""
    if error.code == 1:
        return ConfigError(
            "The SSH server does not allow connections to the database's host and port to be led through it.",
            remedy="Allow it there: AllowTcpForwarding, PermitOpen.",
        )
    if error.code == 2:
        return ConfigError(
            "The SSH server cannot connect to the database's host and port.",
            remedy="Check host and port as seen from there, and the firewall.",
        )
    return TransientError("The SSH server has no resources for another connection.", detail=f"code {error.code}")
