"""The part of a configuration that both connectors share: where the server is and how to reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airbyte_pg.errors import ConfigError

SslModeName = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class SslMode(BaseModel):
    """How the connection is encrypted."""

    model_config = ConfigDict(extra="allow")

    mode: SslModeName = Field(default="prefer", title="Mode")


class TunnelMethod(BaseModel):
    """Whether the server is reached through an SSH tunnel."""

    model_config = ConfigDict(extra="allow")

    tunnel_method: Literal["NO_TUNNEL", "SSH_KEY_AUTH", "SSH_PASSWORD_AUTH"] = "NO_TUNNEL"


class ConnectionSettings(BaseModel):
    """Host, credentials and transport of a PostgreSQL server. Unknown keys are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    host: str = Field(title="Host", description="Host name or address of the server.")
    port: int = Field(default=5432, ge=0, le=65536, title="Port", description="Port of the server.")
    database: str = Field(title="Database Name", description="Name of the database.")
    username: str = Field(title="User", description="Name of the database user.")
    password: str | None = Field(
        default=None,
        title="Password",
        description="The user's password.",
        json_schema_extra={"airbyte_secret": True},
    )
    ssl_mode: SslMode = Field(
        default=SslMode(),
        title="SSL Mode",
        description="How the connection is encrypted; by default if the server can.",
    )
    tunnel_method: TunnelMethod = Field(
        default=TunnelMethod(), title="SSH Tunnel Method", description="Not supported yet: NO_TUNNEL only."
    )
    jdbc_url_params: str | None = Field(
        default=None, title="JDBC URL Parameters", description="Not supported yet: leave empty."
    )

    def secrets(self) -> Iterator[str]:
        """Every secret string in the configuration."""
        if self.password:
            yield self.password

    def refuse_unsupported(self) -> None:
        """Raise ConfigError for a connection option that this version cannot honour."""
        if self.tunnel_method.tunnel_method != "NO_TUNNEL":
            raise ConfigError("SSH tunnels are not supported yet.", remedy="Connect directly (NO_TUNNEL).")
        if self.ssl_mode.mode.startswith("verify"):
            raise ConfigError(
                f"ssl_mode {self.ssl_mode.mode} is not supported yet.",
                remedy="Use require, or a trusted network.",
            )
        if self.jdbc_url_params:
            raise ConfigError("jdbc_url_params are not supported yet.", remedy="Leave the field empty.")


Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(path: Path, model: type[Settings]) -> Settings:
    """The configuration in ``path`` as ``model``.

    Raises ConfigError naming the fields that are wrong, without their values.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"The config file cannot be read: {error.strerror}.", detail=str(path)) from error
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"The config file is not JSON (line {error.lineno}).") from error
    if not isinstance(document, Mapping):
        raise ConfigError("The config file must hold one JSON object.")
    return parse_settings(document, model)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def parse_settings(document: Mapping[str, Any], model: type[Settings]) -> Settings:
    """``document`` as ``model``; null counts as absent. Raises ConfigError as load_settings does."""
    try:
        return model.model_validate(_without_nulls(document))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'config'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        # From None: pydantic's own text repeats the input.
        raise ConfigError(f"The configuration is not valid: {problems}.") from None
