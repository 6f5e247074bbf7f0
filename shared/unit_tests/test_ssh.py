"""Which host keys are accepted."""

from __future__ import annotations

import pytest

from airbyte_pg.errors import ConfigError
from airbyte_pg.ssh import fingerprint, pins

# "key", in base64.
KEY = "a2V5"
PRINT = fingerprint(b"key")
OTHER = "SHA256:" + "A" * 43


@pytest.mark.parametrize(
    ("given", "fingerprints", "types"),
    [
        (f"ssh-ed25519 {KEY}", {PRINT}, {"ssh-ed25519"}),
        (f"[bastion]:2222 ecdsa-sha2-nistp256 {KEY} me@here", {PRINT}, {"ecdsa-sha2-nistp256"}),
        (f"|1|c2FsdA==|aGFzaA== ssh-rsa {KEY}", {PRINT}, {"ssh-rsa"}),
        (f"ssh-rsa {KEY}\nssh-ed25519 {KEY}", {PRINT}, {"ssh-rsa", "ssh-ed25519"}),
        (f"ssh-rsa {KEY}\nssh-rsa a2V6", {PRINT, fingerprint(b"kez")}, {"ssh-rsa"}),
        (f"256 {OTHER} me@here (ED25519)", {OTHER}, set()),
        (f"{OTHER}= {PRINT}", {OTHER, PRINT}, set()),
        # One whose type is not known: any type may be shown.
        (f"ssh-rsa {KEY}\n{OTHER}", {PRINT, OTHER}, set()),
    ],
)
def test_forms(given, fingerprints, types):
    found = pins(given)
    assert found.fingerprints == fingerprints
    assert found.types == types


@pytest.mark.parametrize("given", ["x", "MD5:00:11", "SHA256:short", "ssh-rsa", "ssh-rsa a2V5a"])
def test_what_is_no_key(given):
    with pytest.raises(ConfigError, match="neither a public key nor a fingerprint"):
        pins(given)
