"""The part of a configuration that both connectors share: where the server is and how to reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from airbyte_pg import strict
from airbyte_pg.errors import ConfigError
from airbyte_pg.jdbc import translate

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


class SslVerify(Choice):
    """Always encryption, with a server that is known: what both ways to know it have."""

    # 3.x does not require it in its form.
    ca_certificate: str | None = Field(
        default=None,
        title="CA Certificate",
        description="The certificate authority's certificate, as PEM text. Without it no connection is made.",
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


class SslVerifyCa(SslVerify, title="verify-ca"):
    """Always encryption, with a server whose certificate the authority has signed."""

    mode: Literal["verify-ca"] = "verify-ca"


class SslVerifyFull(SslVerify, title="verify-full"):
    """As verify-ca, and the certificate must be for this host."""

    mode: Literal["verify-full"] = "verify-full"


def _host(given: str) -> str:
    """A host's name or address: JDBC writes IPv6 addresses in brackets, libpq and SSH without."""
    host = given.strip().removeprefix("[").removesuffix("]")
    if not host:
        raise ValueError("a host is needed")
    return host


Host = Annotated[str, AfterValidator(_host)]
# What people paste has spaces around it.
Name = Annotated[str, AfterValidator(str.strip)]


class NoTunnel(Choice, title="No Tunnel"):
    """A direct connection to the server."""

    tunnel_method: Literal["NO_TUNNEL"] = "NO_TUNNEL"


class SshTunnel(Choice):
    """Through an SSH server: what both ways to log in have."""

    tunnel_host: Host = Field(
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
    tunnel_user: Name = Field(title="SSH Login Username", description="User to log in as there.")


def _host_key() -> Any:
    return Field(
        default=None,
        title="SSH Host Key",
        description="The server's public key (as in known_hosts) or its fingerprint (SHA256:…), one or several. A "
        "server with another key is refused; without it any key is accepted.",
        json_schema_extra={"multiline": True},
    )


class SshKeyAuth(SshTunnel, title="SSH Key Authentication"):
    """Through an SSH server, with a private key."""

    tunnel_method: Literal["SSH_KEY_AUTH"] = "SSH_KEY_AUTH"
    ssh_key: str = Field(
        title="SSH Private Key",
        description="The private key: RSA, ECDSA or Ed25519, as PEM or OpenSSH text or base64 of it.",
        json_schema_extra=secret(multiline=True),
    )
    ssh_key_passphrase: str | None = Field(
        default=None,
        title="SSH Private Key Passphrase",
        description="The passphrase of the key, if it has one.",
        json_schema_extra=secret(),
    )
    tunnel_host_key: str | None = _host_key()


class SshPasswordAuth(SshTunnel, title="Password Authentication"):
    """Through an SSH server, with a password."""

    tunnel_method: Literal["SSH_PASSWORD_AUTH"] = "SSH_PASSWORD_AUTH"
    tunnel_user_password: str = Field(
        title="Password", description="The user's password there.", json_schema_extra=secret()
    )
    tunnel_host_key: str | None = _host_key()


def one_of(key: str, *names: str, default: str | None = None) -> BeforeValidator:
    """A choice by ``key``, which may be left out where there is a default; what is no choice is refused with the names
    of those there are."""

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
    one_of("mode", *get_args(SslModeName)),
]
TunnelMethod = Annotated[
    NoTunnel | SshKeyAuth | SshPasswordAuth,
    Field(discriminator="tunnel_method"),
    one_of("tunnel_method", "NO_TUNNEL", "SSH_KEY_AUTH", "SSH_PASSWORD_AUTH", default="NO_TUNNEL"),
]


Configured = TypeVar("Configured", bound="ConnectionSettings")


class ConnectionSettings(BaseModel):
    """Host, credentials and transport of a PostgreSQL server. Unknown keys are accepted and ignored."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    host: Host = Field(
        title="Host", description="Host name or address of the server, or the directory of its Unix socket."
    )
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
    # The default is that of 2.x's form; a configuration without it is another matter (encryption).
    ssl: bool = Field(
        default=False,
        title="SSL Connection",
        description="Whether SSL Mode counts. Off: encryption only where the server offers it, whatever the mode. Left "
        "out: SSL Mode counts.",
    )
    ssl_mode: SslMode = Field(
        default=SslPrefer(), title="SSL Mode", description="How the connection is encrypted, and whom it trusts."
    )
    tunnel_method: TunnelMethod = Field(
        default=NoTunnel(),
        title="SSH Tunnel Method",
        description="Whether the server is reached through an SSH tunnel.",
    )
    jdbc_url_params: str | None = Field(
        default=None,
        title="JDBC URL Parameters (Advanced)",
        description="Further parameters of the connection, key=value pairs separated by &, such as connectTimeout "
        "(seconds, by default 60; 0: without limit). Not: currentSchema, user, password, ssl, sslmode.",
        json_schema_extra={"pattern_descriptor": "key1=value1&key2=value2"},
    )

    _local_port: int | None = PrivateAttr(default=None)

    @property
    def encryption(self) -> SslMode:
        """The mode that counts, of ``ssl``, ``ssl_mode``, strict mode and what is left out (reference/destination.md
        sections 1.2 and 1.3)."""
        switch = self.ssl if "ssl" in self.model_fields_set else None
        if switch is False and not strict.is_strict():
            return SslPrefer()
        if "ssl_mode" not in self.model_fields_set and (switch or strict.is_strict()):
            return SslRequire()
        return self.ssl_mode

    @property
    def local_port(self) -> int | None:
        """Where on this machine the tunnel begins; None where there is none."""
        return self._local_port

    def entering_at(self: Configured, local_port: int) -> Configured:
        """These settings with a tunnel that begins at ``local_port``."""
        tunnelled = self.model_copy()
        tunnelled._local_port = local_port
        return tunnelled

    def secrets(self) -> Iterator[str]:
        """Every secret string in the configuration."""
        yield from _secrets(self)

    def refuse_unsupported(self) -> None:
        """Raise ConfigError for a connection that must not or cannot be made."""
        if isinstance(self.tunnel_method, SshTunnel):
            if strict.is_socket(self.host):
                raise ConfigError("A tunnel does not lead to a Unix socket.", remedy="Give host and port.")
        elif strict.is_strict():
            strict.expect_encrypted(self.encryption.mode, self.host)
        if isinstance(self.encryption, SslVerify) and not self.encryption.ca_certificate:
            raise ConfigError(
                f"ssl_mode {self.encryption.mode} needs ca_certificate.",
                remedy="Give it, or choose require, which asks nobody who the server is.",
            )
        translate(self.jdbc_url_params or "")


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
    """``value`` without what says nothing: null, and objects with nothing else in them."""
    if isinstance(value, Mapping):
        left = {key: _without_nulls(inner) for key, inner in value.items()}
        return {key: inner for key, inner in left.items() if inner is not None and inner != {}}
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
    """``document`` as ``model``; null, and an object without values, count as absent.

    Raises ConfigError as load_settings does.
    """
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
