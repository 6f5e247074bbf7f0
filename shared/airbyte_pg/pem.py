"""PEM texts as they come out of forms and JSON files, in the form that every library reads (RFC 7468)."""

from __future__ import annotations

import base64
import binascii
import re
import textwrap
from dataclasses import dataclass

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_LINE = 64


@dataclass(frozen=True)
class Pem:
    """One or more PEM blocks: the text, and what each block says it is (``CERTIFICATE``, ``RSA PRIVATE KEY``, …)."""

    text: str
    labels: tuple[str, ...]


def read_pem(given: str) -> Pem:
    r"""The PEM blocks of ``given``, text around them left out.

    Line ends may be CRLF, ``\n`` written out, spaces, or missing; the whole may be base64 once more. Raises ValueError
    where there is no block.
    """
    text = _spelled_out(given)
    if "-----BEGIN" not in text:
        text = _spelled_out(_decoded(text))
    blocks = _BLOCK.findall(text)
    if not blocks:
        raise ValueError("no PEM text")
    whole = "".join(f"-----BEGIN {label}-----\n{_lines(body)}-----END {label}-----\n" for label, body in blocks)
    return Pem(whole, tuple(label for label, _ in blocks))


def _spelled_out(text: str) -> str:
    return text.replace("\\r", "").replace("\\n", "\n").replace("\r", "")


def _decoded(text: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _lines(body: str) -> str:
    # RFC 1421 headers (Proc-Type, DEK-Info) are lines of their own, with an empty one behind them.
    text = "\n".join(line.strip() for line in body.strip().splitlines())
    head, empty, rest = text.rpartition("\n\n") if ":" in text else ("", "", text)
    return "".join([head, empty, *(f"{line}\n" for line in textwrap.wrap("".join(rest.split()), _LINE))])
