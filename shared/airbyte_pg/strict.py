"""Strict mode (``DEPLOYMENT_MODE=CLOUD``, as Airbyte's images know it): no connection without encryption.

Reference: destination.md section 1.3, with its holes closed: what is left out counts as chosen, a leftover
``ssl: false`` does not matter, and the rule holds for every connection, not for `check` alone.
"""

from __future__ import annotations

import os
from typing import Any

from airbyte_pg.errors import ConfigError

DEFAULT_MODE = "require"
_UNENCRYPTED = ("disable", "allow", "prefer")


def is_strict() -> bool:
    """Whether the environment asks for strict mode."""
    return os.environ.get("DEPLOYMENT_MODE", "").strip().upper() == "CLOUD"


def expect_encrypted(mode: str, host: str) -> None:
    """Raise ConfigError where a direct connection in ssl_mode ``mode`` to ``host`` might not be encrypted."""
    if mode in _UNENCRYPTED:
        raise ConfigError(
            f"Unsecured connection not allowed: ssl_mode {mode}.",
            remedy="If no SSH Tunnel set up, please use one of the following SSL modes: require, verify-ca, "
            "verify-full.",
        )
    if is_socket(host):
        # libpq ignores sslmode there (PostgreSQL documentation, libpq "sslmode").
        raise ConfigError(
            "Unsecured connection not allowed: a Unix socket is never encrypted.",
            remedy="Give the host by name, or use an SSH tunnel.",
        )


def is_socket(host: str) -> bool:
    """Whether ``host``, or one of several separated by commas, is a Unix socket (a directory, or ``@name``)."""
    return any(part.strip().startswith(("/", "@")) for part in host.split(","))


def adapted(specification: dict[str, Any]) -> dict[str, Any]:
    """``specification`` (a ConnectorSpecification) as it is to be shown: in strict mode TLS cannot be switched off, and
    is the default."""
    if not is_strict():
        return specification
    form = specification["connectionSpecification"]
    properties = {name: shown for name, shown in form["properties"].items() if name != "ssl"}
    properties["ssl_mode"] = {**properties["ssl_mode"], "default": {"mode": DEFAULT_MODE}}
    return {**specification, "connectionSpecification": {**form, "properties": properties}}
