"""A connector as the CDK's suites want it, an object with methods, each of which runs the connector's own command."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from airbyte_cdk.models import (
    AirbyteCatalog,
    AirbyteConnectionStatus,
    AirbyteMessage,
    AirbyteMessageSerializer,
    AirbyteStateMessage,
    ConfiguredAirbyteCatalog,
    ConnectorSpecification,
    Type,
)
from airbyte_cdk.models.airbyte_protocol_serializers import ConfiguredAirbyteCatalogSerializer
from airbyte_cdk.sources.source import Source
from orjson import loads

from integration_tests.support import connector


class Command(Source):  # type: ignore[misc]  # the CDK is not followed
    """``module`` is run as a process. What it reports as an error is raised."""

    def __init__(self, module: str) -> None:
        self._module = module

    def spec(self, logger: logging.Logger) -> ConnectorSpecification:
        return _only(self._run("spec"), Type.SPEC).spec

    def check(self, logger: logging.Logger, config: Mapping[str, Any]) -> AirbyteConnectionStatus:
        return _only(self._run("check", config=config), Type.CONNECTION_STATUS).connectionStatus

    def discover(self, logger: logging.Logger, config: Mapping[str, Any]) -> AirbyteCatalog:
        return _only(self._run("discover", config=config), Type.CATALOG).catalog

    def read(
        self,
        logger: logging.Logger,
        config: Mapping[str, Any],
        catalog: ConfiguredAirbyteCatalog,
        state: list[AirbyteStateMessage] | None = None,
    ) -> Iterable[AirbyteMessage]:
        yield from self._run("read", config=config, catalog=ConfiguredAirbyteCatalogSerializer.dump(catalog))

    def _run(self, command: str, **files: Any) -> list[AirbyteMessage]:
        outcome = connector.run(self._module, command, **files)
        if outcome.exit_code:
            raise RuntimeError(outcome.error["message"] if outcome.error else repr(outcome))
        return [AirbyteMessageSerializer.load(loads(line)) for line in outcome.lines]


def _only(messages: list[AirbyteMessage], kind: Type) -> Any:
    (found,) = [message for message in messages if message.type == kind]
    return found
