"""Any exception to one of three classes; nothing of a value or a secret in what is said."""

from __future__ import annotations

import psycopg2
import pytest
from psycopg2 import errors

from airbyte_pg import messages
from airbyte_pg.classify import CONNECT_TEXTS, SQLSTATES, Phase, classify
from airbyte_pg.errors import ConfigError, ConnectorError, SystemFault, TransientError


def coded(code: str) -> psycopg2.Error:
    """A server's error as the driver makes it, with a text that quotes a row."""

    class Coded(psycopg2.Error):
        pgcode = code

    return Coded("DETAIL: Key (card)=(4111-1111) already exists.")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("28P01", ConfigError),
        ("3D000", ConfigError),
        ("42501", ConfigError),
        ("42P01", ConfigError),
        ("53100", ConfigError),
        ("53400", ConfigError),
        ("53300", TransientError),
        ("55006", TransientError),
        ("08006", TransientError),
        ("57P01", TransientError),
        ("57014", TransientError),
        ("40001", TransientError),
        ("40P01", TransientError),
        ("55P03", TransientError),
        ("25006", TransientError),
        ("22P02", SystemFault),
        ("23505", SystemFault),
        ("XX000", SystemFault),
    ],
)
def test_by_sqlstate(code, kind):
    failure = classify(coded(code), Phase.WORKING)
    assert type(failure) is kind
    assert code in failure.detail
    line = messages.error(failure)
    assert b"4111" not in line


def test_by_class_where_there_is_no_sqlstate():
    failure = classify(errors.lookup("22P05")("the server's words"), Phase.WORKING)
    assert isinstance(failure, ConfigError)
    assert "22P05" in failure.detail


@pytest.mark.parametrize("sample", [row[0] for row in CONNECT_TEXTS])
def test_while_connecting_the_text_sharpens_the_wording(sample):
    failure = classify(psycopg2.OperationalError(f'connection to server at "h": FATAL: {sample} x'), Phase.CONNECTING)
    assert isinstance(failure, (ConfigError, TransientError))
    assert failure.message != "The connection to the server could not be made."


def test_by_phase_where_nothing_else_is_known():
    lost = psycopg2.OperationalError("server closed the connection unexpectedly")
    assert isinstance(classify(lost, Phase.CONNECTING), ConfigError)
    assert isinstance(classify(lost, Phase.WORKING), TransientError)
    assert isinstance(classify(psycopg2.InterfaceError("connection already closed"), Phase.WORKING), TransientError)


def test_what_nobody_knows_is_a_system_fault_and_ours_pass_through():
    assert type(classify(ZeroDivisionError("4111"), Phase.WORKING)) is SystemFault
    own = TransientError("x")
    assert classify(own, Phase.WORKING) is own


def test_every_entry_says_something_and_names_a_real_class():
    for code, (kind, text, _) in SQLSTATES.items():
        assert issubclass(kind, ConnectorError)
        assert text.endswith(".")
        if len(code) == 5:
            assert issubclass(errors.lookup(code), psycopg2.Error)
