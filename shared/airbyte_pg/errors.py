"""The three kinds of failure that the Airbyte protocol knows. Raised where more is known than a SQLSTATE says."""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class StreamName(NamedTuple):
    """A stream's descriptor: namespace (None where the source has none) and name."""

    namespace: str | None
    name: str


class ConnectorError(Exception):
    """A failure with a message for the user.

    ``message`` is one sentence without secrets and row values, ``remedy`` says what to do (with SQL where there is
    any), ``detail`` is for the log (SQLSTATE, slot, LSNs). ``failure_type`` is the protocol's word for the class.
    """

    failure_type: ClassVar[str] = "system_error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "", detail: str = "", stream: StreamName | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.detail = detail
        self.stream = stream

    @property
    def user_text(self) -> str:
        """Message and remedy as the user reads them."""
        return f"{self.message} {self.remedy}".strip()


class ConfigError(ConnectorError):
    """The user must change something; a retry will not help."""

    failure_type = "config_error"


class Unreachable(ConfigError):
    """Nobody answers at the address: a matter of configuration, unless somebody has answered before."""


# Set in the environment by a runner that can turn a sync into a refresh of every stream.
REFRESHES = "AIRBYTE_PG_REFRESHES"
# A runner's word, in the source's environment, that positions are to be told where the configuration does not say.
POSITIONS = "AIRBYTE_PG_POSITIONS"
# A runner's word, to both sides: run until you are stopped, what fails is started again. The state file says what has
# come back, and the exit codes of CatalogOutdated and CONFIG_EXIT are understood.
CONTINUOUS = "AIRBYTE_PG_CONTINUOUS"
# The value of CONTINUOUS for what such a run begins with: a sync up to the present.
ONCE = "0"
# A runner's word that this configuration has worked: a server that cannot be reached will be there again.
HAS_WORKED = "AIRBYTE_PG_HAS_WORKED"
# What a config_error ends with where CONTINUOUS is set: the runner is not to try again (EX_CONFIG of sysexits.h).
CONFIG_EXIT = 78


class RefreshNeeded(ConfigError):
    """Everything must be read anew, replacing what is at the destination: asked of a runner that sets REFRESHES."""

    exit_code = 65


class CatalogOutdated(ConfigError):
    """What may be read has changed: discover again and go on. Said to a runner that sets CONTINUOUS, behind the last
    STATE."""

    exit_code = 66


class TransientError(ConnectorError):
    """The same call may work later."""

    failure_type = "transient_error"


class SystemFault(ConnectorError):
    """Our own fault, or something never seen before."""

    failure_type = "system_error"


class OutputClosed(TransientError):
    """The reader of our stdout has gone: nothing can be said any more."""


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived. Not an error: the command ends with 128 + ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
