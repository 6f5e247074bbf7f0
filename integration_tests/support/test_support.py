"""The support itself: what every other test leans on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from airbyte_pg.connect import connect
from airbyte_pg.settings import ConnectionSettings, parse_settings
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(embedded(16), settings={"work_mem": "3MB"}, durable=True) as cluster:
        yield cluster


def test_cluster_survives_kill_and_restart_and_leaves_nothing(cluster: Cluster):
    with Database(cluster) as database:
        database.execute("create table t as select 1 as a")
        assert database.value("show work_mem") == "3MB"
        assert database.value("show fsync") == "on"
        postmaster = psutil.Process(cluster.pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        cluster.kill()
        with pytest.raises(psycopg2.OperationalError):
            cluster.connect()
        cluster.start()
        assert database.value("select a from t") == 1
        cluster.restart()
        assert database.value("select a from t") == 1
    home = cluster.home
    cluster.stop()
    assert not home.exists()
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)


def test_config_connects_as_a_connector_does(source_db: Database):
    settings = parse_settings(source_db.config(), ConnectionSettings)
    connection = connect(settings, application_name="test")
    try:
        with connection.cursor() as cursor:
            cursor.execute("select current_database(), current_setting('wal_level')")
            assert cursor.fetchone() == (source_db.name, "logical")
    finally:
        connection.close()


def test_database_goes_with_its_slots_sessions_and_prepared_transactions(source_db: Database):
    with Database(source_db.server) as database:
        database.execute("create table t (a int)")
        database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", f"slot_{database.name}")
        session = database.connect()
        try:
            session.autocommit = False
            with session.cursor() as cursor:
                cursor.execute("insert into t values (1)")
                cursor.execute("prepare transaction %s", (f"p_{database.name}",))
        finally:
            session.close()
        idle = database.connect()
    assert source_db.rows("select 1 from pg_database where datname = %s", database.name) == []
    assert source_db.rows("select 1 from pg_replication_slots where database = %s", database.name) == []
    idle.close()


def test_password_is_needed_and_the_log_is_at_hand(cluster: Cluster):
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        cluster.connect(password="wrong")
    assert "password authentication failed" in cluster.log_tail()
    assert Path(cluster.home).stat().st_mode & 0o077 == 0
