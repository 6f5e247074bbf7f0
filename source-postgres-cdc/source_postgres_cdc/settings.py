"""The configuration of source-postgres-cdc: Airbyte's keys (legacy and 3.8) and ours."""

from __future__ import annotations

import os
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from airbyte_pg.errors import CONTINUOUS, ONCE, POSITIONS, ConfigError
from airbyte_pg.settings import ConnectionSettings
from source_postgres_cdc.selection import Selection, selection

# What PostgreSQL keeps of a name (NAMEDATALEN - 1).
_LONGEST_NAME = 63
DEFAULT_SLOT = "airbyte_slot"
DEFAULT_PUBLICATION = "airbyte_publication"


# A state is due after this time in a continuous run, where the configuration does not say.
_CONTINUOUS_CHECKPOINT_S = 1.0
_IDLE = 10
_LONGEST_IDLE_S = 60.0

# What Airbyte's connector has and this one has no use for.
HIDDEN: dict[str, Any] = {"airbyte_hidden": True}


class ReplicationMethod(BaseModel):
    """Inserts, updates and deletes, from the write-ahead log."""

    model_config = ConfigDict(extra="allow", defer_build=True, title="Read Changes using Write-Ahead Log (CDC)")

    method: str = Field(default="CDC", title="Method", json_schema_extra={"const": "CDC"})
    plugin: str = Field(
        default="pgoutput",
        title="Plugin",
        description="The output plugin, built into PostgreSQL.",
        json_schema_extra={"enum": ["pgoutput"]},
    )
    replication_slot: str = Field(
        default=DEFAULT_SLOT,
        title="Replication Slot",
        description="Logical slot that keeps the position: one of its own for each connection. Made by the first sync.",
        json_schema_extra={"minLength": 1},
    )
    publication: str = Field(
        default=DEFAULT_PUBLICATION,
        title="Publication",
        description="Publication that names the tables. Made by the first sync, where the user owns the tables.",
        json_schema_extra={"minLength": 1},
    )
    initial_waiting_seconds: int = Field(
        default=1200,
        ge=1,
        # A time-out of the server's in ms has 31 bits.
        le=2_000_000,
        title="Liveness Limit in Seconds",
        description="Seconds without any progress after which a sync fails (transient error).",
    )
    queue_size: int = Field(
        default=10_000,
        title="Size of the Queue",
        description="Accepted for compatibility, without effect: memory is bounded without a queue.",
        json_schema_extra=HIDDEN,
    )
    invalid_cdc_cursor_position_behavior: Literal["Fail sync", "Re-sync data"] = Field(
        default="Fail sync",
        title="Invalid CDC Position Behavior",
        description="When the slot or its position is lost: fail, or make the slot anew and read every table again.",
    )
    heartbeat_action_query: str = Field(
        default="",
        title="Heartbeat Query",
        description="SQL that is run once per sync, such as an update of a heartbeat table. Not needed: WAL of idle "
        "databases is released without.",
    )
    initial_load_timeout_hours: float = Field(
        default=8.0,
        gt=0,
        title="Initial Load Timeout",
        description="Hours after which an initial load that is not over ends with a transient error; the next attempt "
        "lets the server remove old WAL and goes on where it was.",
    )
    lsn_commit_behaviour: Literal["After loading Data in the destination", "While reading Data"] = Field(
        default="After loading Data in the destination",
        title="LSN Commit Behaviour",
        description="Accepted for compatibility, without effect: the slot moves only to a position whose state came "
        "back.",
        json_schema_extra=HIDDEN,
    )
    debezium_shutdown_timeout_seconds: int = Field(
        default=60,
        title="Debezium Engine Shutdown Timeout",
        description="Accepted for compatibility, without effect: there is no Debezium.",
        json_schema_extra=HIDDEN,
    )


class SourceSettings(ConnectionSettings):
    """Configuration of source-postgres-cdc. Unknown keys are accepted and ignored."""

    model_config = ConfigDict(
        title="Postgres Source Spec", json_schema_extra={"required": ["host", "port", "database", "username"]}
    )

    # Of times before there were modes.
    ssl: bool = Field(
        default=False,
        title="SSL Connection",
        description="Accepted for compatibility: false is the mode prefer, whatever SSL Mode says.",
        json_schema_extra=HIDDEN,
    )
    schemas: list[str] = Field(
        default=["public"],
        title="Schemas",
        description="Schemas to read tables from (case sensitive). Empty: all but the system's.",
        json_schema_extra={"minItems": 0, "uniqueItems": True},
    )
    schema_: str = Field(
        default="public",
        alias="schema",
        title="Default Schema",
        description="The schema of names without one in the table whitelist.",
    )
    tables: str = Field(
        default="",
        title="Tables",
        description="Whitelist: schema.table, separated by commas; * stands for any characters, odd names go in "
        "double quotes. Empty: every table of the schemas.",
    )
    replication_method: ReplicationMethod = Field(
        default=ReplicationMethod(),
        title="Update Method",
        description="How changes are read.",
        json_schema_extra={"is_choice": True, "display_type": "radio"},
    )
    initial_load: bool = Field(
        default=True,
        title="Initial Load",
        description="Read the rows that a table has before its changes. Off: only changes from the slot on.",
    )
    create_if_missing: bool = Field(
        default=True,
        title="Create Publication and Slot",
        description="Make a missing publication or slot, where privileges allow.",
    )
    failover: bool = Field(
        default=False,
        title="Failover Slot",
        description="Make the slot one that standbys keep a copy of, and read only what they have (PostgreSQL 17).",
    )
    state_type: Literal["global", "stream"] = Field(
        default="global",
        title="State Type",
        description="stream: a state per stream, for runners that cannot keep global ones.",
    )

    emit_position: bool = Field(
        default=False,
        title="Emit Position",
        description="Add _ab_cdc_commit_lsn and _ab_cdc_ordinal: the order in which changes were committed. By it our "
        "destination knows, in append mode, what comes again after a crash.",
    )
    special_values: Literal["null", "text"] = Field(
        default="null",
        title="Special Values",
        description="What becomes of NaN and infinite numbers, which JSON numbers cannot be: null, with a note in the "
        "record's meta.changes, or text.",
    )
    schema_change: Literal["resnapshot", "warn"] = Field(
        default="resnapshot",
        title="Schema Change",
        description="What is done when a column is new, has another type, or was made anew: the table is read again, "
        "and its rows are sent over those that were sent before; or there is a warning only.",
    )
    truncate_handling: Literal["warn", "fail", "propagate"] = Field(
        default="warn",
        title="TRUNCATE Handling",
        description="What becomes of a TRUNCATE: a warning (the rows stay at the destination until the stream is "
        "refreshed), the end of the sync, or a record by which this project's destination removes the rows.",
    )
    transport: Literal["auto", "stream", "bulk"] = Field(
        default="auto",
        title="Transport",
        description="How changes are read: streaming replication, or bulk (SQL, for backlogs). auto: by the backlog.",
    )

    sync_checkpoint_records: int = Field(
        default=100_000,
        ge=1,
        title="Records per Checkpoint",
        description="A state is given at the first commit after so many records.",
    )
    sync_checkpoint_seconds: float = Field(
        default=10.0,
        gt=0,
        title="Seconds per Checkpoint",
        description="A state is given at the first commit after so many seconds. Where nothing is said, a continuous "
        "run gives one each second in which something was sent.",
    )
    run_mode: Literal["batch", "continuous"] = Field(
        default="batch",
        title="Run Mode",
        description="batch: up to the present. continuous: changes are sent as they are committed, until SIGTERM.",
    )
    max_run_seconds: int = Field(
        default=0,
        ge=0,
        title="Seconds of a Continuous Run",
        description="A continuous run ends after so many seconds. 0: it has no end.",
    )
    acknowledge_from_state_file: bool = Field(
        default=False,
        title="Acknowledge from the State File",
        description="In a continuous run the file given by --state is read again when it changes, and the slot is "
        "moved to the position found there, so that the server need not keep WAL until the next start.",
    )
    acknowledge_seconds: float = Field(
        default=60.0,
        gt=0,
        title="Seconds between Acknowledgements",
        description="The slot is moved so often at most, or once in 256 MB of WAL.",
        json_schema_extra=HIDDEN,
    )

    @model_validator(mode="after")
    def _told_by_a_runner(self) -> SourceSettings:
        if "emit_position" not in self.model_fields_set and os.environ.get(POSITIONS):
            self.emit_position = True
        if told := os.environ.get(CONTINUOUS):
            self.run_mode, self.acknowledge_from_state_file = "batch" if told == ONCE else "continuous", True
        return self

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, document: Any) -> Any:
        """Options of ours are taken in replication_method too, where Airbyte has options of its kind."""
        method = document.get("replication_method") if isinstance(document, dict) else None
        if not isinstance(method, dict):
            return document
        return {**{key: method[key] for key in ("failover", "state_type") if key in method}, **document}

    max_db_connections: int | None = Field(
        default=None,
        ge=1,
        title="Connections",
        description="Tables, and the parts of large ones, are read by up to so many connections and processes at once "
        "in an initial load or full refresh, at most one per processor. Empty: one.",
    )
    checkpoint_target_interval_seconds: int | None = Field(
        default=None,
        gt=0,
        title="Checkpoint Target Time Interval",
        description="Airbyte's word for Seconds per Checkpoint: the shorter of the two holds.",
    )
    check_privileges: bool = Field(
        default=True,
        title="Check Table and Column Access Privileges",
        description="Accepted for compatibility, without effect: only what the user may read is offered, and asking "
        "costs nothing.",
        json_schema_extra=HIDDEN,
    )
    entra_service_principal_auth: bool = Field(
        default=False,
        title="Azure Entra Service Principal Authentication",
        description="Not supported: leave it off.",
        json_schema_extra=HIDDEN,
    )
    entra_tenant_id: str | None = Field(
        default=None, title="Azure Entra Tenant Id", description="Not supported.", json_schema_extra=HIDDEN
    )
    entra_client_id: str | None = Field(
        default=None, title="Azure Entra Client Id", description="Not supported.", json_schema_extra=HIDDEN
    )
    snapshot_drain_seconds: float = Field(
        default=1800.0,
        ge=0,
        title="Seconds between Drains",
        description="After so many seconds of an initial load, all changes until then are read before it goes on.",
    )
    snapshot_part_pages: int = Field(
        default=131_072,
        ge=1,
        title="Pages per Part",
        description="Large tables are read in parts of so many pages, with a state behind each.",
        json_schema_extra={"airbyte_hidden": True},
    )

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds after which a state is due."""
        given = self.model_fields_set
        seconds = self.sync_checkpoint_seconds
        if self.is_continuous and "sync_checkpoint_seconds" not in given:
            seconds = float(self.checkpoint_target_interval_seconds or _CONTINUOUS_CHECKPOINT_S)
        return min(seconds, self.checkpoint_target_interval_seconds or seconds)

    @property
    def idle_seconds(self) -> float:
        """Seconds between what a continuous run does now and then, whether or not there are changes."""
        return min(_IDLE * self.checkpoint_seconds, _LONGEST_IDLE_S)

    @property
    def is_continuous(self) -> bool:
        """Whether the run has no end of its own."""
        return self.run_mode == "continuous"

    @property
    def selection(self) -> Selection:
        """The tables that are discovered. Raises ConfigError for a whitelist that cannot be read."""
        return selection(self.tables, self.schemas, self.schema_)

    @property
    def slot(self) -> str:
        """Name of the anchor slot."""
        return self.replication_method.replication_slot

    @property
    def publication(self) -> str:
        """Name of the publication."""
        return self.replication_method.publication

    @property
    def resyncs(self) -> bool:
        """Whether everything is read anew where the position is lost; that takes a slot to be made and tables read."""
        behavior = self.replication_method.invalid_cdc_cursor_position_behavior
        return behavior == "Re-sync data" and self.create_if_missing and self.initial_load

    @property
    def resnapshots(self) -> bool:
        """Whether a table is read anew when its columns have changed."""
        return self.schema_change == "resnapshot" and self.initial_load

    @property
    def sweeps(self) -> bool:
        """Whether rows that went unseen are removed: by reading the table anew, and a record that says so."""
        return self.resnapshots and self.truncate_handling == "propagate"

    def refuse_unsupported(self) -> None:
        """Raise ConfigError for what this version cannot honour, naming what to use."""
        super().refuse_unsupported()
        method = self.replication_method
        if method.method in ("Standard", "Xmin"):
            raise ConfigError(
                f"The update method {method.method} is not offered.",
                remedy='Use {"method": "CDC"}: it reads the write-ahead log, deletes included.',
            )
        if method.method != "CDC":
            raise ConfigError("The update method is unknown.", remedy='Use {"method": "CDC"}.')
        if method.plugin != "pgoutput":
            raise ConfigError("The output plugin is not supported.", remedy="Use pgoutput, which is built in.")
        if self.entra_service_principal_auth:
            raise ConfigError(
                "Azure Entra service principals are not supported.",
                remedy="Switch entra_service_principal_auth off and give a database user with a password.",
            )
        _ = self.selection
        if not re.fullmatch("[a-z0-9_]{1,63}", self.slot):
            raise ConfigError(
                "The name of the replication slot is not possible.",
                remedy="Use 1 to 63 lower-case letters, digits and underscores.",
            )
        if not 1 <= len(self.publication.encode()) <= _LONGEST_NAME:
            raise ConfigError(
                "The name of the publication is not possible.",
                remedy=f"Use 1 to {_LONGEST_NAME} bytes, or leave the key out.",
            )
        for key, accepted in _NOT_YET.items():
            if self._given(key) not in (None, *accepted):
                raise ConfigError(f"The option {key} is not supported yet.", remedy="Leave it out.")

    def _given(self, key: str) -> Any:
        extra = {**(self.model_extra or {}), **(self.replication_method.model_extra or {})}
        return extra.get(key)


# Options of the design that this version does not honour; the values that mean the present behaviour are accepted.
_NOT_YET: dict[str, tuple[Any, ...]] = {
    "table_filters": ([],),
}
