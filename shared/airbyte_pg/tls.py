"""TLS: from the configuration's mode and PEM texts to libpq's parameters and files.

libpq reads certificates and keys from files only (PostgreSQL documentation, libpq "SSL Support"), and only while a
connection is made: so they are there for as long as that takes.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from airbyte_pg.classify import UNTRUSTED
from airbyte_pg.errors import ConfigError
from airbyte_pg.pem import read_pem
from airbyte_pg.settings import SslMode, SslVerify

_LOOK_S = 10.0
# PostgreSQL documentation, Message Formats, SSLRequest.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED.
_OUT_OF_TIME = (9, 10)
_CERTIFICATE, _KEY = "CERTIFICATE", "PRIVATE KEY"


@contextmanager
def parameters(mode: SslMode) -> Iterator[dict[str, str]]:
    """libpq's parameters for ``mode``; the files that they name are gone at the end of the block.

    Raises ConfigError naming the text that is no PEM, or that is missing.
    """
    if not isinstance(mode, SslVerify):
        yield {"sslmode": mode.mode}
        return
    texts = {"sslrootcert": _pem(mode.ca_certificate or "", "ca_certificate", _CERTIFICATE)}
    if bool(mode.client_certificate) != bool(mode.client_key):
        raise ConfigError(
            "ssl_mode has only one of client_certificate and client_key.", remedy="Give both, or none of them."
        )
    if mode.client_certificate and mode.client_key:
        texts["sslcert"] = _pem(mode.client_certificate, "client_certificate", _CERTIFICATE)
        texts["sslkey"] = _pem(mode.client_key, "client_key", _KEY)
        if "ENCRYPTED" in texts["sslkey"] and not mode.client_key_password:
            # OpenSSL would ask for it, at the terminal or of our stdin.
            raise ConfigError(
                "ssl_mode.client_key has a password, and none is configured.",
                remedy="Give ssl_mode.client_key_password.",
            )
    with _files(texts) as paths:
        yield {"sslmode": mode.mode, **paths, "sslpassword": mode.client_key_password or ""}


def distrust(mode: SslMode, host: str, port: int) -> ConfigError | None:
    """What is wrong with the certificate that the server at ``host`` shows, when it is the certificate.

    libpq tells no more than that something is, and not always that (an authority's key that is another under the same
    name is a "provider signature failure").
    """
    import ssl

    if not isinstance(mode, SslVerify):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=read_pem(mode.ca_certificate or "").text)
        with socket.create_connection((host, port), _LOOK_S) as connection:
            connection.sendall(_SSL_REQUEST)
            if connection.recv(1) == b"S":
                context.wrap_socket(connection).close()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OUT_OF_TIME:
            return ConfigError(
                "The server's certificate, or its authority's, has expired or is not valid yet.",
                remedy="Renew it on the server, and check the clock here.",
            )
        message, remedy = UNTRUSTED
        return ConfigError(message, remedy=remedy)
    except OSError:
        pass
    return None


def _pem(given: str, field: str, label: str) -> str:
    try:
        pem = read_pem(given)
    except ValueError:
        pem = None
    if pem is None or not all(found.endswith(label) for found in pem.labels):
        raise ConfigError(
            f"ssl_mode.{field} is no {label.lower()} in PEM text.",
            remedy=f"Give the whole text, from -----BEGIN … {label}----- to -----END … {label}-----.",
        )
    return pem.text


@contextmanager
def _files(texts: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A file for each of ``texts``, readable by us alone, until the end of the block.

    On Linux they are files without a name in memory, which end with the process however it ends; elsewhere in a
    private directory.
    """
    in_memory = getattr(os, "memfd_create", None) if Path("/proc/self/fd").exists() else None
    with ExitStack() as opened:
        directory = "" if in_memory else opened.enter_context(tempfile.TemporaryDirectory(prefix="airbyte-pg-tls-"))
        paths = {}
        for name, text in texts.items():
            if in_memory:
                descriptor = in_memory(name)
                os.fchmod(descriptor, 0o600)
                paths[name] = f"/proc/self/fd/{descriptor}"
            else:
                paths[name] = f"{directory}/{name}"
                descriptor = os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            file = opened.enter_context(os.fdopen(descriptor, "wb", buffering=0))
            file.write(text.encode())
        yield paths
