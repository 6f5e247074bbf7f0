"""Private keys in every form, and what is said of what is none."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from airbyte_pg.errors import ConfigError
from airbyte_pg.ssh_key import private_key

KEYS: dict[str, Any] = {
    "ssh-rsa": rsa.generate_private_key(65537, 2048),
    "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-sha2-nistp521": ec.generate_private_key(ec.SECP521R1()),
    "ssh-ed25519": ed25519.Ed25519PrivateKey.generate(),
}
FORMATS = ["PKCS8", "OpenSSH", "TraditionalOpenSSL"]
DSA = dsa.generate_private_key(2048)


def text_of(key: Any, form: str = "PKCS8", passphrase: str | None = None) -> str:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    text: bytes = key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), encryption)
    return text.decode()


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("passphrase", [None, "it's \\ ü"])
def test_every_kind_in_every_form(name, form, passphrase):
    if name == "ssh-ed25519" and form == "TraditionalOpenSSL":
        return  # there is no such form
    text = text_of(KEYS[name], form, passphrase)
    public = KEYS[name].public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    for given in (text, text.replace("\n", "\\n"), base64.b64encode(text.encode()).decode()):
        key = private_key(given, passphrase)
        assert key.get_name() == name
        assert key.get_base64() == public.decode().split()[1]


@pytest.mark.parametrize("form", ["PKCS8", "OpenSSH", "TraditionalOpenSSL"])
def test_passphrases(form):
    text = text_of(KEYS["ssh-rsa"], form, "right")
    with pytest.raises(ConfigError, match="has a passphrase, and none is configured"):
        private_key(text, None)
    with pytest.raises(ConfigError, match="cannot be read with this passphrase") as caught:
        private_key(text, "wrong one")
    assert "wrong one" not in caught.value.user_text
    # One that nobody asked for does no harm.
    assert private_key(text_of(KEYS["ssh-rsa"], form), "needless").get_name() == "ssh-rsa"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "no private key."),
        ("", "no private key."),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@here", "but a public one"),
        ("PuTTY-User-Key-File-3: ssh-ed25519", "PuTTY's form"),
        ("-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----", "but a certificate"),
        (text_of(KEYS["ssh-ed25519"]).replace("MC4C", "AAAA", 1), "damaged"),
        (text_of(KEYS["ssh-ed25519"], "OpenSSH").replace("b3Bl", "AAAA", 1), "damaged"),
        (text_of(DSA), "kind that is not supported"),
    ],
)
def test_what_is_no_key_is_told(text, words):
    with pytest.raises(ConfigError) as caught:
        private_key(text, None)
    assert words in caught.value.message
