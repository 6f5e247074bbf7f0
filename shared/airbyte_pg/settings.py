"""The part of a configuration that both connectors share: where the server is and how to reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from airbyte_pg.errors import ConfigError

SslModeName = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def secret(*, multiline: bool = False) -> dict[str, Any]:
    """What the specification says of a secret."""
    return {"airbyte_secret": True, **({"multiline": True} if multiline else {})}


class Choice(BaseModel):
    """One of several ways, told apart by a key of its own. Unknown keys are accepted and ignored."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class SslDisable(Choice, title="disable"):
    """No encryption."""

    mode: Literal["disable"] = "disable"


class SslAllow(Choice, title="allow"):
    """Encryption only where the server asks for it."""

    mode: Literal["allow"] = "allow"


class SslPrefer(Choice, title="prefer"):
    """Encryption where the server offers it."""

    mode: Literal["prefer"] = "prefer"


class SslRequire(Choice, title="require"):
    """Always encryption; whose server it is is not asked."""

    mode: Literal["require"] = "require"


class _SslVerify(Choice):
    ca_certificate: str = Field(
        title="CA Certificate",
        description="The certificate authority's certificate, as PEM text.",
        json_schema_extra=secret(multiline=True),
    )
    client_certificate: str | None = Field(
        default=None,
        title="Client Certificate",
        description="The client's certificate, as PEM text.",
        json_schema_extra=secret(multiline=True),
    )
    client_key: str | None = Field(
        default=None,
        title="Client Key",
        description="The client's private key, as PEM text.",
        json_schema_extra=secret(multiline=True),
    )
    client_key_password: str | None = Field(
        default=None,
        title="Client Key Password",
        description="The password of the client's key, if it has one.",
        json_schema_extra=secret(),
    )


class SslVerifyCa(_SslVerify, title="verify-ca"):
    """Always encryption, with a server whose certificate the authority has signed."""

    mode: Literal["verify-ca"] = "verify-ca"


class SslVerifyFull(_SslVerify, title="verify-full"):
    """As verify-ca, and the certificate must be for this host."""

    mode: Literal["verify-full"] = "verify-full"


class NoTunnel(Choice, title="No Tunnel"):
    """A direct connection to the server."""

    tunnel_method: Literal["NO_TUNNEL"] = "NO_TUNNEL"


class _SshTunnel(Choice):
    tunnel_host: str = Field(
        title="SSH Tunnel Jump Server Host", description="Host name or address of the server that is tunnelled through."
    )
    tunnel_port: int = Field(
        default=22,
        ge=0,
        le=65536,
        title="SSH Connection Port",
        description="Port of its SSH server.",
        json_schema_extra={"examples": ["22"]},
    )
    tunnel_user: str = Field(title="SSH Login Username", description="User to log in as there.")


class SshKeyAuth(_SshTunnel, title="SSH Key Authentication"):
    """Through an SSH server, with a private key."""

    tunnel_method: Literal["SSH_KEY_AUTH"] = "SSH_KEY_AUTH"
    ssh_key: str = Field(
        title="SSH Private Key",
        description="The private key: RSA, ECDSA or Ed25519, as PEM or OpenSSH text or base64 of it.",
        json_schema_extra=secret(multiline=True),
    )


class SshPasswordAuth(_SshTunnel, title="Password Authentication"):
    """Through an SSH server, with a password."""

    tunnel_method: Literal["SSH_PASSWORD_AUTH"] = "SSH_PASSWORD_AUTH"
    tunnel_user_password: str = Field(
        title="Password", description="The user's password there.", json_schema_extra=secret()
    )


def one_of(key: str, default: str, *names: str) -> BeforeValidator:
    """A choice by ``key``, which may be left out; what is no choice is refused with the names of those there are."""

    def chosen(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given  # the default, or nothing that could be a choice
        named = given.get(key, default)
        if named not in names:
            raise ValueError(f"{key} must be one of {', '.join(names)}")
        return {**given, key: named}

    return BeforeValidator(chosen)


SslMode = Annotated[
    SslDisable | SslAllow | SslPrefer | SslRequire | SslVerifyCa | SslVerifyFull,
    Field(discriminator="mode"),
    one_of("mode", "prefer", *get_args(SslModeName)),
]
TunnelMethod = Annotated[
    NoTunnel | SshKeyAuth | SshPasswordAuth,
    Field(discriminator="tunnel_method"),
    one_of("tunnel_method", "NO_TUNNEL", "NO_TUNNEL", "SSH_KEY_AUTH", "SSH_PASSWORD_AUTH"),
]


class ConnectionSettings(BaseModel):
    """Host, credentials and transport of a PostgreSQL server. Unknown keys are accepted and ignored."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    host: str = Field(title="Host", description="Host name or address of the server.")
    port: int = Field(
        default=5432,
        ge=0,
        le=65536,
        title="Port",
        description="Port of the server.",
        json_schema_extra={"examples": ["5432"]},
    )
    database: str = Field(title="Database Name", description="Name of the database.")
    username: str = Field(title="Username", description="Name of the database user.")
    password: str | None = Field(
        default=None,
        title="Password",
        description="The user's password.",
        json_schema_extra={**secret(), "always_show": True},
    )
    ssl_mode: SslMode = Field(
        default=SslPrefer(),
        title="SSL Mode",
        description="How the connection is encrypted; by default where the server can. The modes verify-ca and "
        "verify-full are not supported yet.",
    )
    tunnel_method: TunnelMethod = Field(
        default=NoTunnel(),
        title="SSH Tunnel Method",
        description="Whether the server is reached through an SSH tunnel. Not supported yet: NO_TUNNEL only.",
    )
    jdbc_url_params: str | None = Field(
        default=None,
        title="JDBC URL Parameters (Advanced)",
        description="Further parameters of the connection, key=value pairs separated by &. Not supported yet: leave "
        "empty.",
        json_schema_extra={"pattern_descriptor": "key1=value1&key2=value2"},
    )

    def secrets(self) -> Iterator[str]:
        """Every secret string in the configuration."""
        yield from _secrets(self)

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


def _secrets(model: BaseModel) -> Iterator[str]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _secrets(value)
        elif _is_secret(field) and value:
            yield str(value)
    # Certificates in a mode that has no use for them are secrets all the same.
    for name, value in (model.model_extra or {}).items():
        if name in _SECRET_NAMES and value:
            yield str(value)


def _is_secret(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("airbyte_secret"))


_SECRET_NAMES = {
    name
    for model in (ConnectionSettings, SslVerifyFull, SshKeyAuth, SshPasswordAuth)
    for name, field in model.model_fields.items()
    if _is_secret(field)
}


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


def _nul(value: Any, place: str = "") -> str | None:
    """Where a string with a NUL character is, which libpq would end at."""
    if isinstance(value, Mapping):
        found = (_nul(inner, f"{place}.{key}" if place else str(key)) for key, inner in value.items())
        return next(filter(None, found), None)
    if isinstance(value, list):
        return next(filter(None, (_nul(inner, place) for inner in value)), None)
    return place if isinstance(value, str) and "\0" in value else None


def parse_settings(document: Mapping[str, Any], model: type[Settings]) -> Settings:
    """``document`` as ``model``; null counts as absent. Raises ConfigError as load_settings does."""
    if (place := _nul(document)) is not None:
        raise ConfigError(f"The configuration is not valid: {place}: a zero byte is in no name and in no password.")
    try:
        return model.model_validate(_without_nulls(document))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'config'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        # From None: pydantic's own text repeats the input.
        raise ConfigError(f"The configuration is not valid: {problems}.") from None
