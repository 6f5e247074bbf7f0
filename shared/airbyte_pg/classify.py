"""The one place that turns any exception into a ConnectorError: by SQLSTATE, else by phase."""

from __future__ import annotations

import enum
import re

import psycopg2
from psycopg2 import errors

from airbyte_pg.errors import ConfigError, ConnectorError, SystemFault, TransientError, Unreachable


class Phase(enum.Enum):
    """Where a command stands: a connection that never worked is a matter of configuration."""

    CONNECTING = "connecting"
    WORKING = "working"


# SQLSTATE or its two-character class -> (error class, what the user is told, remedy). Five characters win.
# PostgreSQL documentation, Appendix A. Shape: reference/style.md section 7.
SQLSTATES: dict[str, tuple[type[ConnectorError], str, str]] = {
    "28": (ConfigError, "The server refused the credentials.", "Check user and password."),
    "3D000": (ConfigError, "The database does not exist.", "Check the database name."),
    "3F000": (ConfigError, "The schema does not exist.", "Check the schema name."),
    "42501": (
        ConfigError,
        "The database user lacks a privilege.",
        "Grant it; `check` may name what is missing.",
    ),
    "42P01": (ConfigError, "A table is missing.", "Refresh the catalog."),
    "42703": (ConfigError, "A column is missing: its table has changed.", "Refresh the catalog."),
    "42704": (ConfigError, "A replication slot, publication or type is missing.", "Run `check`."),
    "42939": (
        ConfigError,
        "The server keeps names for itself that begin with pg_.",
        "Choose another schema.",
    ),
    "53400": (
        ConfigError,
        "The server has no free replication slot or sender.",
        "Raise max_replication_slots or max_wal_senders, or drop slots that nobody uses.",
    ),
    "54011": (
        ConfigError,
        "A table would have more columns than it can have; those that were dropped count.",
        "Deselect some; or drop the final table, and refresh the stream.",
    ),
    "22021": (ConfigError, "The server holds text that is no valid text of its encoding.", "Find it and mend it."),
    "22P05": (
        ConfigError,
        "Text cannot be converted between UTF-8 and the database's encoding.",
        "Find it and mend it: it has a character that the other encoding lacks.",
    ),
    "53100": (ConfigError, "The server's disk is full.", "Free space on the server."),
    "58P01": (
        ConfigError,
        "WAL that is still needed has been removed from the server.",
        "Reset the streams.",
    ),
    "0A000": (ConfigError, "The server does not support a feature that is needed.", "Check its version."),
    "2BP01": (ConfigError, "Other objects depend on a table that must be replaced.", "Drop them first."),
    "55006": (TransientError, "The replication slot is in use.", "Wait for the other sync to end."),
    "25006": (TransientError, "The server is read-only at the moment.", "Connect to the primary."),
    "08": (TransientError, "The connection to the server was lost.", ""),
    "57P01": (TransientError, "The server closed the connection.", ""),
    "57P02": (TransientError, "The server crashed or is restarting.", ""),
    "57P03": (TransientError, "The server is starting or stopping.", ""),
    "40001": (TransientError, "A serialisation conflict with another transaction.", ""),
    "40P01": (TransientError, "A deadlock with another transaction.", ""),
    "55P03": (TransientError, "A lock could not be had in time.", "See which session holds it."),
    "53": (TransientError, "The server is short of resources.", "Free memory or connections."),
    "57014": (
        TransientError,
        "The server cancelled a statement (timeout or request).",
        "Raise the timeout, or see who asked for it.",
    ),
    "25P03": (TransientError, "The server ended an idle transaction.", ""),
}

# An internal error of the server that has a meaning for us; see source_postgres_cdc.slot.create.
INTERNAL_TEXTS: tuple[tuple[str, type[ConnectorError], str, str], ...] = (
    (
        "could not map file",
        ConfigError,
        "The server cannot decode its WAL: the replication slot was made while a table was truncated or altered.",
        "Drop the slot and reset the streams (or choose Re-sync data): a new slot is made, and all is read anew.",
    ),
)

# An error that is not the driver's own (of a replication stream that we read ourselves) has a class alone.
_CODES = {errors.lookup(code): code for code in SQLSTATES if len(code) == 5}

# For whoever knows more than the text below tells: message and remedy.
UNTRUSTED = (
    "The server's certificate is not trusted.",
    "Check ssl_mode.ca_certificate: it must be of the authority that signed the server's certificate.",
)

# psycopg2 gives no SQLSTATE while connecting: these patterns in the text (libpq's and the server's, untranslated) tell
# the causes apart. The first that is found counts; unit_tests/test_classify.py has a real text for each.
CONNECT_TEXTS: tuple[tuple[str, type[ConnectorError], str, str], ...] = (
    ("password authentication failed", ConfigError, "The server refused user name or password.", "Check both."),
    ("no password supplied", ConfigError, "The server asks for a password and none is configured.", "Give one."),
    (
        # And no second attempt that was encrypted.
        r"\A(?!.*SSL (encryption|on)).*no pg_hba.conf entry .*(no encryption|SSL off)",
        ConfigError,
        "The server does not accept this user from this address without encryption.",
        "Choose ssl_mode require, or see pg_hba.conf.",
    ),
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        ConfigError,
        "The server does not accept this user from this address.",
        "See pg_hba.conf.",
    ),
    (
        "unsupported startup parameter",
        ConfigError,
        "A connection pooler (such as pgbouncer) stands between, and does not let our settings pass.",
        "Give host and port of the server itself.",
    ),
    (
        "must be superuser or replication role to start walsender|permission denied to start WAL sender",
        ConfigError,
        "The user may not replicate.",
        "Give it the attribute REPLICATION.",
    ),
    ("permission denied for database", ConfigError, "The user may not connect to the database.", "Grant it CONNECT."),
    ("is not permitted to log in", ConfigError, "The user may not log in.", "Give it the attribute LOGIN."),
    (
        "is not currently accepting connections",
        ConfigError,
        "The database accepts no connections.",
        "Check the database name.",
    ),
    (
        "conversion between",
        ConfigError,
        "The encoding of the database cannot be converted to UTF-8.",
        "Choose another database.",
    ),
    (
        "unrecognized configuration parameter|invalid value for parameter|invalid command-line argument",
        ConfigError,
        "The server does not take the options of the connection.",
        "Check `options` in jdbc_url_params.",
    ),
    (
        "session is (not )?read-only|server is (not )?in hot standby mode",
        ConfigError,
        "The server is not of the kind that targetServerType asks for.",
        "Connect to another, or leave it out of jdbc_url_params.",
    ),
    ("could not translate host name", Unreachable, "The host name is unknown.", "Check the host."),
    (
        "on socket .*(No such file|Connection refused)",
        Unreachable,
        "There is no Unix socket of a server in this directory for this port.",
        "Check host and port.",
    ),
    ("Connection refused", Unreachable, "Nothing listens at this host and port.", "Check both, and the firewall."),
    (
        "timeout expired|No route to host|Network is unreachable|Cannot assign requested address",
        Unreachable,
        "The server did not answer in time or cannot be reached.",
        "Check host, port and firewall.",
    ),
    ("server does not support SSL", ConfigError, "The server offers no TLS.", "Choose ssl_mode prefer or disable."),
    ("certificate verify failed", ConfigError, *UNTRUSTED),
    (
        "server certificate for .* does not match host name",
        ConfigError,
        "The server's certificate is for another host name.",
        "Give the host as the certificate has it, or choose verify-ca.",
    ),
    (
        "could not read root certificate file",
        ConfigError,
        "ssl_mode.ca_certificate is damaged: it cannot be read.",
        "Give the whole PEM text of the authority's certificate.",
    ),
    (
        "could not read certificate file",
        ConfigError,
        "ssl_mode.client_certificate is damaged: it cannot be read.",
        "Give the whole PEM text of the client's certificate.",
    ),
    (
        "could not load private key file .*bad decrypt",
        ConfigError,
        "ssl_mode.client_key cannot be read with this password.",
        "Check ssl_mode.client_key_password.",
    ),
    (
        "could not load private key file .*key values mismatch|certificate does not match private key file",
        ConfigError,
        "ssl_mode.client_key is not the key of ssl_mode.client_certificate.",
        "Give the two that were made together.",
    ),
    (
        "could not load private key file",
        ConfigError,
        "ssl_mode.client_key is damaged or in a form that is not known: it cannot be read.",
        "Give the whole PEM text of the key (PKCS#8, PKCS#1 or SEC 1).",
    ),
    (
        "requires a valid client certificate",
        ConfigError,
        "The server asks for a client certificate.",
        "Give client_certificate and client_key, in ssl_mode verify-ca or verify-full.",
    ),
    (
        "certificate authentication failed",
        ConfigError,
        "The server does not take the client certificate for this user.",
        "Its common name (CN) must be the user's name, or be mapped to it in pg_ident.conf.",
    ),
    (
        "SSL error: .* alert ",
        ConfigError,
        "The server does not trust the client certificate.",
        "It must be valid, and signed by an authority in the server's ssl_ca_file.",
    ),
    (
        "invalid response to SSL negotiation|expected authentication request from server",
        ConfigError,
        "What answers at host and port is no PostgreSQL server.",
        "Check both.",
    ),
    (
        "SSL error: |SSL SYSCALL error: ",
        ConfigError,
        "TLS could not be agreed on with the server.",
        "See the server's log; its versions of TLS may be too old.",
    ),
    (
        "too many clients",
        TransientError,
        "The server has no free connection.",
        "Raise max_connections or close others.",
    ),
    ("too many connections", TransientError, "The server has no free connection.", "Raise the limit or close others."),
    ("remaining connection slots", TransientError, "The server has no free connection.", "Raise max_connections."),
    ("max_wal_senders", TransientError, "The server has no free sender for replication.", "Raise max_wal_senders."),
    ("the database system is", TransientError, "The server is starting or stopping.", ""),
    ('database ".*" does not exist|no such database', ConfigError, "The database does not exist.", "Check its name."),
    ('role ".*" does not exist|no such user', ConfigError, "The user does not exist.", "Check its name."),
)


def classify(error: BaseException, phase: Phase) -> ConnectorError:
    """``error`` as a ConnectorError, the original as its cause. What nobody knows is a SystemFault."""
    if isinstance(error, ConnectorError):
        return error
    return _chained(_translate(error, phase), error)


def _translate(error: BaseException, phase: Phase) -> ConnectorError:
    if isinstance(error, psycopg2.Error):
        return _of_server(error, phase)
    if isinstance(error, MemoryError):
        return TransientError("The connector ran out of memory.", remedy="Give it more.")
    if isinstance(error, OSError):
        return SystemFault("The operating system refused a request.", detail=f"errno {error.errno}")
    return SystemFault("An unexpected error in the connector.", detail=type(error).__name__)


def _of_server(error: psycopg2.Error, phase: Phase) -> ConnectorError:
    code = error.pgcode or _CODES.get(type(error))
    if code:
        known = SQLSTATES.get(code) or SQLSTATES.get(code[:2])
        if known:
            kind, text, remedy = known
            return kind(text, remedy=remedy, detail=f"SQLSTATE {code}")
        for sample, kind, wording, remedy in INTERNAL_TEXTS if code == "XX000" else ():
            if sample in str(error):
                return kind(wording, remedy=remedy, detail=f"SQLSTATE {code}")
        return SystemFault("The server reported an unexpected error.", detail=f"SQLSTATE {code}")
    text = str(error)
    if phase is Phase.CONNECTING:
        for pattern, kind, wording, remedy in CONNECT_TEXTS:
            if re.search(pattern, text, re.DOTALL):
                return kind(wording, remedy=remedy)
        return Unreachable("The connection to the server could not be made.", remedy="Check host and port.")
    if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.DatabaseError)):
        # Without a SQLSTATE after the first success: libpq lost the server.
        return TransientError("The connection to the server was lost.")
    return SystemFault("The database driver reported an unexpected error.", detail=type(error).__name__)


def _chained(failure: ConnectorError, cause: BaseException) -> ConnectorError:
    failure.__cause__ = cause
    return failure
