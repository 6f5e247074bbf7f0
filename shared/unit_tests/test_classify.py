"""Any exception to one of three classes; nothing of a value or a secret in what is said."""

from __future__ import annotations

import psycopg2
import pytest
from psycopg2 import errors

from airbyte_pg import messages
from airbyte_pg.classify import CONNECT_TEXTS, SQLSTATES, Phase, classify
from airbyte_pg.errors import ConfigError, ConnectorError, SystemFault, TransientError, Unreachable


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
        ("42939", ConfigError),
        ("54011", ConfigError),
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


HOST = 'connection to server at "h" (192.0.2.1), port 5432 failed: '
HBA = 'FATAL:  no pg_hba.conf entry for host "192.0.2.1", user "u", database "d", '
# As libpq 17 and servers of 12 to 18 say it.
CONNECT_SAMPLES = [
    (HOST + 'FATAL:  password authentication failed for user "u"', "user name or password"),
    (HOST + "fe_sendauth: no password supplied", "asks for a password"),
    (HOST + HBA + "no encryption", "from this address without encryption."),
    (HOST + HBA + "SSL off", "from this address without encryption."),
    (HOST + HBA + "SSL encryption", "this user from this address."),
    (f"{HOST}{HBA}SSL encryption\n{HOST}{HBA}no encryption", "this user from this address."),
    (HOST + 'FATAL:  pg_hba.conf rejects connection for host "192.0.2.1"', "this user from this address."),
    (HOST + "FATAL:  unsupported startup parameter: options", "pooler"),
    (HOST + "FATAL:  must be superuser or replication role to start walsender", "may not replicate"),
    (HOST + "FATAL:  permission denied to start WAL sender", "may not replicate"),
    (HOST + 'FATAL:  permission denied for database "d"', "may not connect"),
    (HOST + 'FATAL:  role "u" is not permitted to log in', "may not log in"),
    (HOST + 'FATAL:  database "d" is not currently accepting connections', "accepts no connections"),
    (HOST + "FATAL:  conversion between UTF8 and MULE_INTERNAL is not supported", "encoding"),
    (HOST + 'FATAL:  unrecognized configuration parameter "x"', "options"),
    (HOST + 'FATAL:  invalid value for parameter "work_mem": "x"', "options"),
    (HOST + "FATAL:  invalid command-line argument for server process: x", "options"),
    (HOST + "session is read-only", "targetServerType"),
    (HOST + "server is not in hot standby mode", "targetServerType"),
    ('could not translate host name "h" to address: Name or service not known', "host name is unknown"),
    ('connection to server on socket "/x/.s.PGSQL.5432" failed: No such file or directory', "Unix socket"),
    (HOST + "Connection refused\n\tIs the server running on that host", "Nothing listens"),
    (HOST + "timeout expired", "did not answer"),
    (HOST + "No route to host", "cannot be reached"),
    (HOST + "server does not support SSL, but SSL was required", "offers no TLS"),
    (HOST + "SSL error: certificate verify failed", "certificate is not trusted"),
    (HOST + 'server certificate for "a" does not match host name "h"', "another host name"),
    (HOST + 'could not read root certificate file "f": no start line', "ca_certificate is damaged"),
    (HOST + 'could not read certificate file "f": no start line', "client_certificate is damaged"),
    (HOST + 'could not load private key file "f": bad decrypt', "with this password"),
    (HOST + 'could not load private key file "f": key values mismatch', "not the key of"),
    (HOST + 'could not load private key file "f": unsupported', "client_key is damaged"),
    (HOST + "FATAL:  connection requires a valid client certificate", "asks for a client certificate"),
    (HOST + 'FATAL:  certificate authentication failed for user "u"', "for this user"),
    (HOST + "SSL error: tlsv1 alert unknown ca", "does not trust the client certificate"),
    (HOST + "received invalid response to SSL negotiation: H", "no PostgreSQL server"),
    (HOST + "expected authentication request from server, but received H", "no PostgreSQL server"),
    (HOST + "SSL error: unsupported protocol", "could not be agreed on"),
    (HOST + "FATAL:  sorry, too many clients already", "no free connection"),
    (HOST + 'FATAL:  too many connections for role "u"', "no free connection"),
    (HOST + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "no free"),
    (HOST + "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)", "no free sender"),
    (HOST + "FATAL:  the database system is starting up", "starting or stopping"),
    (HOST + 'FATAL:  database "d" does not exist', "The database does not exist"),
    (HOST + 'FATAL:  role "u" does not exist', "The user does not exist"),
]


@pytest.mark.parametrize(("sample", "words"), CONNECT_SAMPLES)
def test_while_connecting_the_text_tells_the_cause(sample, words):
    failure = classify(psycopg2.OperationalError(sample), Phase.CONNECTING)
    assert isinstance(failure, (ConfigError, TransientError))
    assert words in failure.message
    assert "192.0.2.1" not in failure.user_text


def test_every_cause_has_a_text():
    told = {classify(psycopg2.OperationalError(sample), Phase.CONNECTING).user_text for sample, _ in CONNECT_SAMPLES}
    assert told == {f"{message} {remedy}".strip() for _, _, message, remedy in CONNECT_TEXTS}


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


@pytest.mark.parametrize(
    ("sample", "may_pass"), [("Connection refused", True), ("password authentication failed", False)]
)
def test_server_that_is_away_is_told_apart_from_one_that_refuses(sample, may_pass):
    failure = classify(psycopg2.OperationalError(sample), Phase.CONNECTING)
    assert isinstance(failure, ConfigError)
    assert isinstance(failure, Unreachable) == may_pass
