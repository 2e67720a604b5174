"""What SQLite cannot do is said in words, and the connection can be used again."""

from __future__ import annotations

import sqlite3

import pytest

from atomfoundry.errors import StorageError
from atomfoundry.results.sqlite_file import SQLiteFile


@pytest.fixture
def file(tmp_path):
    file = SQLiteFile(tmp_path / "a.sqlite", busy_timeout_s=0.1)
    file.connection().execute("CREATE TABLE t (x)")
    yield file
    file.close()


def rows(file):
    return file.connection().execute("SELECT COUNT(*) FROM t").fetchone()[0]


def insert(file, size):
    with file.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("INSERT INTO t VALUES (?)", ("x" * size,))


def test_nothing_of_a_transaction_without_space_is_kept_and_the_next_one_works(file):
    file.connection().execute("PRAGMA max_page_count = 10")
    with pytest.raises(StorageError, match=r"a.sqlite cannot be used: database or disk is full. Make space"):
        insert(file, 100_000)
    assert rows(file) == 0
    insert(file, 10)
    assert rows(file) == 2


def test_a_lock_is_waited_for_only_so_long(file):
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match=r"a.sqlite has been locked by another process for 0.1 s. Find it"):
        insert(file, 10)
    other.execute("ROLLBACK")
    other.close()
    insert(file, 10)
    assert rows(file) == 2


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "b.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"b.sqlite cannot be used: file is not a database. Restore"):
        SQLiteFile(path).connection()


def test_a_wrong_statement_stays_what_it_is(file):
    with pytest.raises(sqlite3.OperationalError, match="no such table"), file.transaction() as connection:
        connection.execute("INSERT INTO nowhere VALUES (1)")
    assert not file.connection().in_transaction
