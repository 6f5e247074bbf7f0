"""PEM texts in the forms that forms and files give them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from airbyte_pg.pem import read_pem
from airbyte_pg.settings import SslRequire, SslVerifyCa
from airbyte_pg.tls import parameters

KEY = ec.generate_private_key(ec.SECP256R1())
PLAIN = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
# The one form with headers of its own.
WITH_HEADERS = (
    rsa.generate_private_key(65537, 2048)
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"p"),
    )
    .decode()
)
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "escaped": lambda text: text.replace("\n", "\\n"),
    "escaped CRLF": lambda text: text.replace("\n", "\\r\\n"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(text.encode()).decode(),
    "base64 of escaped": lambda text: base64.b64encode(text.replace("\n", "\\n").encode()).decode(),
    "text around": lambda text: f"Bag Attributes\n\n{text}\nend",
    "indented": lambda text: "\n".join(f"   {line}  " for line in text.splitlines()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", [PLAIN, WITH_HEADERS], ids=["plain", "headers"])
def test_every_form_is_read(form, text):
    assert read_pem(FORMS[form](text)).text == text


def test_line_ends_that_became_spaces():
    assert read_pem(PLAIN.replace("\n", " ")).text == PLAIN
    assert read_pem(PLAIN.replace("\n", "")).text == PLAIN


def test_several_blocks_stay_several():
    both = read_pem(PLAIN + "\n" + WITH_HEADERS)
    assert both.labels == ("PRIVATE KEY", "RSA PRIVATE KEY")
    assert both.text == PLAIN + WITH_HEADERS


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----", "QUJD", "ssh-ed25519 AAAA"])
def test_what_is_no_pem(text):
    with pytest.raises(ValueError, match="no PEM"):
        read_pem(text)


@pytest.mark.parametrize("in_memory", [True, False])
def test_files_are_ours_alone_and_do_not_stay(in_memory, monkeypatch, tmp_path):
    if not in_memory:
        monkeypatch.delattr("os.memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pem = read_pem("-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----").text
    with parameters(SslVerifyCa(ca_certificate=pem)) as given:
        file = Path(given["sslrootcert"])
        assert file.read_text() == pem
        assert file.stat().st_mode & 0o777 == 0o600
        found = list(tmp_path.iterdir())
        assert [path.stat().st_mode & 0o777 for path in found] == ([] if in_memory else [0o700])
    assert not file.exists()
    assert list(tmp_path.iterdir()) == []


def test_modes_that_trust_anybody_need_no_files():
    with parameters(SslRequire()) as given:
        assert given == {"sslmode": "require"}
