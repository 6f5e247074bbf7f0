"""``jdbc_url_params``: what pgjdbc reads from a URL, in libpq's words.

pgjdbc documentation, "Connection Parameters"; PostgreSQL documentation, libpq "Parameter Key Words". The table for
people is in docs/connections.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from airbyte_pg.errors import ConfigError

# What the configuration has fields of its own for.
_FIELDS = {
    "currentschema": "the schemas",
    "user": "username",
    "password": "password",
    **dict.fromkeys(("ssl", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword"), "ssl_mode"),
}
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Translated:
    """``parameters`` for libpq, and the keys that were ``ignored``: they have no meaning here."""

    parameters: Mapping[str, str]
    ignored: tuple[str, ...] = ()


def translate(text: str) -> Translated:
    """The parameters in ``text`` (``key=value`` pairs joined by ``&``, percent-encoded), of a key's values the last.

    Raises ConfigError for a key that the configuration has a field for, and for a value that a known key cannot have.
    """
    parameters: dict[str, str] = {}
    ignored: list[str] = []
    for pair in filter(None, text.strip().lstrip("?").split("&")):
        raw_key, equals, raw_value = pair.partition("=")
        key, value = _decoded(raw_key).strip(), _decoded(raw_value)
        if (field := _FIELDS.get(key.lower())) is not None:
            raise ConfigError(f"jdbc_url_params must not have {key}.", remedy=f"Use {field} of the configuration.")
        if key not in _KEYS or not equals:
            ignored.append(key)
            continue
        keyword, meaning = _KEYS[key]
        try:
            parameters[keyword] = meaning(value)
        except (ValueError, KeyError):
            raise ConfigError(f"jdbc_url_params has a value for {key} that is not possible.") from None
    return Translated(parameters, tuple(ignored))


def _decoded(text: str) -> str:
    # As java.net.URLDecoder does it, which pgjdbc calls.
    from urllib.parse import unquote_plus

    return unquote_plus(text)


def _seconds(value: str) -> str:
    if not re.fullmatch(r"\d+", value):
        raise ValueError
    return str(min(int(value), _MOST))


def _milliseconds(value: str) -> str:
    return str(min(int(_seconds(value)) * 1000, _MOST))


def _flag(value: str) -> str:
    return {"true": "1", "false": "0"}[value.lower()]


def _of(**meanings: str) -> Callable[[str], str]:
    return lambda value: {key.lower(): meaning for key, meaning in meanings.items()}[value.lower()]


# pgjdbc's key -> libpq's, and how the value is written there.
_KEYS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "ApplicationName": ("application_name", str),
    "connectTimeout": ("connect_timeout", _seconds),
    # libpq waits for packets to be acknowledged, not for answers: a long statement is no reason to hang up.
    "socketTimeout": ("tcp_user_timeout", _milliseconds),
    "tcpKeepAlive": ("keepalives", _flag),
    "options": ("options", str),
    "targetServerType": (
        "target_session_attrs",
        _of(
            any="any",
            primary="primary",
            master="primary",
            secondary="standby",
            slave="standby",
            preferSecondary="prefer-standby",
            preferSlave="prefer-standby",
        ),
    ),
    "channelBinding": ("channel_binding", _of(disable="disable", prefer="prefer", require="require")),
    "gssEncMode": ("gssencmode", _of(disable="disable", allow="prefer", prefer="prefer", require="require")),
    "kerberosServerName": ("krbsrvname", str),
}
