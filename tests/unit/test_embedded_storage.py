"""One transaction a request on the embedded engine, and nothing lost when the disk says no."""

from __future__ import annotations

import sqlite3

import pytest
from qdrant_client import QdrantClient, models

from pipelines.core.embedded_storage import RequestTransaction
from pipelines.core.errors import TransientError
from pipelines.core.qdrant import Qdrant
from pipelines.core.settings import QdrantSettings, RetrySettings


class FullDisk(sqlite3.Connection):
    """A connection that refuses writes while `full` is set, and counts its transactions."""

    full = False
    commits = 0

    def execute(self, sql, *parameters):
        if self.full and sql.startswith("INSERT"):
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *parameters)

    def __exit__(self, *error):
        self.commits += 1
        return super().__exit__(*error)


@pytest.fixture
def connection():
    with sqlite3.connect(":memory:", factory=FullDisk) as made:
        made.execute("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)")
        made.commits = 0
        yield made


def store(storage, name):
    """As the engine stores a point."""
    with storage:
        storage.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", (name, b""))


def stored(connection):
    return [row[0] for row in connection.execute("SELECT id FROM points ORDER BY id")]


def test_many_points_are_one_transaction(connection):
    """What a request writes is committed once."""
    storage = RequestTransaction(connection)
    for name in "abc":
        store(storage, name)
    assert stored(connection) == []

    storage.flush()

    assert stored(connection) == ["a", "b", "c"]
    assert connection.commits == 1


def test_what_the_disk_refuses_is_kept_for_the_next_time(connection):
    """A refused flush raises, writes nothing, and is made up for later."""
    storage = RequestTransaction(connection)
    store(storage, "a")
    connection.full = True
    with pytest.raises(sqlite3.OperationalError):
        storage.flush()
    assert stored(connection) == []

    connection.full = False
    store(storage, "b")
    storage.flush()

    assert stored(connection) == ["a", "b"]


def test_a_store_that_cannot_write_answers_nothing_until_it_can(tmp_path, monkeypatch):
    """A request fails while an earlier one's points are not on disk; afterwards nothing lacks."""
    qdrant = Qdrant(
        QdrantClient(path=str(tmp_path)), "here", QdrantSettings(path=tmp_path), RetrySettings()
    )
    qdrant.call(
        "create_collection",
        "c",
        vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT),
    )
    point = models.PointStruct(id=1, vector=[1.0, 0.0], payload={})
    with monkeypatch.context() as patch:

        def refuse(_):
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(RequestTransaction, "flush", refuse)
        with pytest.raises(TransientError):
            qdrant.try_call("upsert", "c", points=[point])
        with pytest.raises(TransientError):
            qdrant.try_call("retrieve", "c", ids=[1])
    qdrant.call("upsert", "c", points=[point])
    qdrant.sync("c")
    qdrant.close()

    again = QdrantClient(path=str(tmp_path))
    assert len(again.retrieve("c", ids=[1])) == 1
    again.close()
