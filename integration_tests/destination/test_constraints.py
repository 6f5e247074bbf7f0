"""Rules that a user gave our final table: one that refuses rows is named, a row's values are not."""

from __future__ import annotations

import pytest

from integration_tests.destination.test_bad_input import SECRET, expect_failure
from integration_tests.destination.writing import (
    USERS,
    Json,
    one,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support.connector import Outcome
from integration_tests.support.databases import Database

TRIGGER = """\
create function public.refuse() returns trigger language plpgsql as $$ begin %s; return new; end $$;
create trigger refuse before insert on public.users for each row when (new.id = 2) execute procedure public.refuse()"""

# The rule, and what the message says of it.
RULES = {
    "check": (f"add constraint no_secrets check (name <> '{SECRET}')", "The constraint no_secrets of public.users"),
    "not null": ("alter age set not null", "The NOT NULL of column age of public.users"),
    "unique": ("add constraint one_name unique (name)", "The constraint one_name of public.users"),
    "exclusion": ("add constraint apart exclude (name with =)", "The constraint apart of public.users"),
    "check that fails": ("add check (1 / (id - 2) < 9)", "A trigger or an index of public.users"),
    "trigger": (TRIGGER % "raise exception 'no %', new.name", "A trigger or an index of public.users"),
    "trigger that fails": (TRIGGER % "perform new.name::int", "A trigger or an index of public.users"),
    "index": ("create index on public.users ((name::int)) where id = 2", "A trigger or an index of public.users"),
}


def give_rule(db: Database, rule: str) -> None:
    statement = rule if rule.startswith("create") else f"alter table public.users {rule}"
    db.execute(statement)


def refused(outcome: Outcome, text: str) -> None:
    expect_failure(outcome, "config_error", text, "refuse")
    assert outcome.error is not None
    assert outcome.error["stream_descriptor"] == {"name": "users", "namespace": "public"}


LINES = records(
    [
        {"id": 1, "name": "a", "age": 1},
        {"id": 2, "name": SECRET, "age": None},
        {"id": 3, "name": SECRET, "age": 3},
    ]
)


@pytest.fixture
def made_db(destination_db):
    """With a table that has a row."""
    sync(destination_db, one(with_age(), "append"), record({"id": 0, "name": "0", "age": 0}))
    return destination_db


def with_age() -> Json:
    properties = {**USERS["json_schema"]["properties"], "age": {"type": "integer"}}
    return {**USERS, "json_schema": {"type": "object", "properties": properties}}


@pytest.mark.parametrize(
    ("rule", "mode"), [*((rule, "append") for rule in RULES), ("check", "append_dedup"), ("trigger", "append_dedup")]
)
def test_a_rule_that_refuses_a_row_is_named(made_db, rule, mode):
    statement, text = RULES[rule]
    give_rule(made_db, statement)
    outcome = write(made_db, one(with_age(), mode), LINES + state(1) + status())
    refused(outcome, text)
    assert outcome.states == []
    assert users(made_db) == [(0, "0")]


def test_a_rule_that_refuses_a_new_generation_is_named(made_db):
    give_rule(made_db, RULES["check"][0])
    outcome = write(made_db, one(with_age(), "overwrite", generation=2, minimum=2), LINES + status())
    refused(outcome, RULES["check"][1])
    assert users(made_db) == [(0, "0")]


@pytest.mark.parametrize("rule", ["add primary key (id)", "add unique (id)", "add exclude (id with =)"])
def test_a_key_that_is_unique_by_the_users_rule_takes_new_rows(made_db, rule):
    catalog = one(with_age(), "append_dedup")
    sync(made_db, catalog, b"")
    give_rule(made_db, rule)
    made_db.execute("create table public.children (id bigint)")
    if "exclude" not in rule:
        made_db.execute("alter table public.children add foreign key (id) references public.users (id)")
    made_db.execute("insert into public.children values (0)")
    for age in range(3):
        sync(made_db, catalog, records({"id": key, "name": "new", "age": age} for key in range(300)))
    assert made_db.rows("select count(*), min(age), max(age) from public.users") == [(300, 2, 2)]


@pytest.mark.parametrize(("mode", "generation"), [("append", 1), ("append_dedup", 1), ("overwrite", 2)])
def test_a_rule_that_is_checked_at_the_commit_is_named(made_db, mode, generation):
    give_rule(made_db, "add constraint one_name unique (name) deferrable initially deferred")
    of = one(with_age(), mode, generation=generation, minimum=generation if generation > 1 else 0)
    outcome = write(made_db, of, LINES + status())
    refused(outcome, "The constraint one_name of public.users")
    assert users(made_db) == [(0, "0")]


@pytest.mark.parametrize("when", ["", "deferrable initially deferred"])
def test_a_foreign_key_to_a_row_that_goes_is_named(made_db, when):
    made_db.execute("alter table public.users add primary key (id)")
    made_db.execute(f"create table public.children (id bigint references public.users {when})")
    made_db.execute("insert into public.children values (0)")
    outcome = write(made_db, one(with_age(), "overwrite", generation=2, minimum=2), LINES + status())
    expect_failure(outcome, "config_error", "children_id_fkey", "refuse")
    assert users(made_db) == [(0, "0")]


def test_an_index_that_a_value_is_too_long_for(made_db):
    made_db.execute("create index long_names on public.users (name)")
    for length in (5_000, 50_000):
        long = "".join(f"{number}-{number * number}" for number in range(length // 5))
        outcome = write(made_db, one(with_age()), record({"id": 1, "name": long}) + status())
        expect_failure(outcome, "config_error", "index", "public.users")


def test_rules_that_all_rows_obey_do_not_matter_when_a_value_is_looked_for(made_db):
    """The server is asked about rows that break every one of these."""
    give_rule(made_db, "add check (num_nulls(id, name, age) < 2)")
    give_rule(made_db, "alter id set not null")
    give_rule(made_db, "add unique (age)")
    lines = record('{"id":1,"name":"a","age":1e999999}') + record('{"id":2,"name":"b","age":2,"z":{"z":1e999999}}')
    sync(made_db, one(with_age()), lines)
    assert users(made_db, "id, name, age") == [(0, "0", 0), (1, "a", None), (2, "b", 2)]
