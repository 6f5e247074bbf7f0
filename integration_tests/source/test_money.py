"""money of servers in other countries: the amount, wherever the point stands."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, read
from integration_tests.support.binaries import open_directory, owner
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded

pytestmark = pytest.mark.debian


@pytest.fixture
def locales(monkeypatch) -> Iterator[Path]:
    """Locales of our own, which the server finds by LOCPATH."""
    directory = open_directory("locales-")
    for name in ("ja_JP", "ar_KW", "de_DE"):
        subprocess.run(["localedef", "-i", name, "-f", "UTF-8", str(directory / f"{name}.UTF-8")], check=True)
    for path in directory.rglob("*"):
        owner().take(path)
    monkeypatch.setenv("LOCPATH", str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("locale", ["ja_JP", "ar_KW", "de_DE"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_amounts(locales, locale, transport):
    settings = {"lc_monetary": f"{locale}.UTF-8"}
    with Cluster(embedded(16), settings=settings) as cluster, Database(cluster) as database:
        database.execute("create table t (id int primary key, m money, list money[])")
        catalog = catalog_of(database)
        first = read(database, catalog)
        database.execute(
            "insert into t values (1, 1234::numeric::money, array[0::numeric::money, (-5)::numeric::money]),"
            " (2, 0.005::numeric::money, null), (3, (-1.5)::numeric::money, null)"
        )
        expected = database.rows("select id, m::numeric, list::numeric[] from t order by id")
        assert expected[0][1:] == (Decimal(1234), [0, -5])
        for outcome in (read(database, catalog, first, transport=transport), read(database, catalog)):
            rows = sorted((row["id"], row["m"], row["list"]) for row in outcome.records("t"))
            assert rows == expected
