"""The CDK's standard suite for sources, on the connector's commands and, under make test-images, on its image."""

from __future__ import annotations

from pathlib import Path

from airbyte_cdk.test.models import ConnectorTestScenario
from airbyte_cdk.test.standard_tests import SourceTestSuiteBase
from airbyte_cdk.test.standard_tests.pytest_hooks import pytest_generate_tests

from integration_tests.suites.command import Command
from integration_tests.support.connector import SOURCE

__all__ = ["TestSuite", "pytest_generate_tests"]


class TestSuite(SourceTestSuiteBase):  # type: ignore[misc]  # the CDK is not followed
    # Asks a registry in the internet for the version that was published before; there is none.
    test_docker_image_spec_backward_compatibility = None

    @classmethod
    def get_connector_root_dir(cls) -> Path:
        return Path(__file__).parents[2] / "source-postgres-cdc"

    @classmethod
    def create_connector(cls, scenario: ConnectorTestScenario | None) -> Command:
        return Command(SOURCE)
