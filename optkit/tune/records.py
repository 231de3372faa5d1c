"""Tuning records: what was measured, in SQLite (write-ahead log), safe against being killed at any moment.

A record belongs to an operator, a target's features, and a template with its version; it is never used for another
instruction set or another version. Records measured on the machine at hand go before those of other machines of the
same kind.
"""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.parse
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import candidates
from optkit.errors import DataError
from optkit.files import write_whole
from optkit.measure.environment import environment
from optkit.target import Target

SCHEMA = 1
SCREENED, FINAL, CHOSEN = 0, 1, 2
"""Stages: measured once among all candidates; measured again, in turn with the best of them; the outcome of that."""

_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    operator TEXT NOT NULL, target TEXT NOT NULL, template TEXT NOT NULL, version INTEGER NOT NULL,
    params TEXT NOT NULL, machine TEXT NOT NULL, threads INTEGER NOT NULL, stage INTEGER NOT NULL,
    seconds REAL, error TEXT NOT NULL, pool INTEGER NOT NULL,
    PRIMARY KEY (operator, target, template, version, params, machine, threads)
) WITHOUT ROWID
"""
_PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

_MAGIC = b"SQLite format 3\0"
_COLUMNS = (
    "operator",
    "target",
    "template",
    "version",
    "params",
    "machine",
    "threads",
    "stage",
    "seconds",
    "error",
    "pool",
)


@dataclass(frozen=True)
class Measurement:
    """One candidate's outcome.

    Attributes:
        operator: text of the operator.
        target: see `target_key`.
        params: of the template, as canonical JSON.
        machine: name of the CPU it was measured on.
        threads: that the kernel ran on.
        stage: `SCREENED`, `FINAL` or `CHOSEN`.
        seconds: of one call; None where it failed.
        error: why it failed; "" where it did not.
        pool: of a chosen one, how many candidates it was chosen from.
    """

    operator: str
    target: str
    template: str
    version: int
    params: str
    machine: str
    threads: int
    stage: int
    seconds: float | None
    error: str = ""
    pool: int = 0

    def plan(self) -> Plan:
        """The plan that was measured."""
        return Plan(self.template, {name: int(value) for name, value in json.loads(self.params).items()})


def target_key(target: Target) -> str:
    """What records of a target are bound to: instruction set, vector width, registers.

    Not cores: what is fastest on one is reused on several. Nor tile registers: what needs them has a template of its
    own, and the others are as fast with and without.
    """
    words = [*target.isa[:1], *sorted(word for word in target.isa[1:] if not word.startswith("amx_"))]
    return f"{' '.join(words)} / {target.lanes} lanes, {target.registers} registers"


def params_text(plan: Plan) -> str:
    """A plan's parameters as canonical JSON."""
    return json.dumps(dict(plan.params), sort_keys=True, separators=(",", ":"))


def machine_name() -> str:
    """The CPU at hand, as records name it."""
    return str(environment()["cpu"])


class RecordStore:
    """A database of records."""

    def __init__(self, path: Path | None, machine: str | None = None) -> None:
        """Open a database for reading and writing, made on demand; None: one in memory.

        Raises:
            DataError: the file is no database, or of an unknown schema.
        """
        self.machine = machine_name() if machine is None else machine
        try:
            name = ":memory:" if path is None else path
            self._database = sqlite3.connect(name, timeout=_PATIENCE, isolation_level=None)
            self._make(path)
            self._log_ahead()
        except sqlite3.Error as error:
            raise DataError(f"{path}: not a database of tuning records: {error}") from error

    def _make(self, path: Path | None) -> None:
        """Make the table where there is none; refuse what is no database of records.

        All of it in one transaction: another process, or one that comes after a kill, sees both the table and its
        schema's number or neither.
        """
        with self._transaction():
            found = int(self._database.execute("PRAGMA user_version").fetchone()[0])
            if found not in (0, SCHEMA):
                raise DataError(f"{path}: records of schema {found}; this optkit knows {SCHEMA}")
            if not found and self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise DataError(f"{path}: a database of something else, and not of tuning records")
            self._database.execute(_TABLE)
            self._database.execute(f"PRAGMA user_version={SCHEMA}")

    def _log_ahead(self) -> None:
        """Write ahead from now on. SQLite waits by itself for everything but this one's lock."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what is written inside, or none."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            yield

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Keep measurements; one of a candidate that is there replaces it."""
        marks = ", ".join("?" for _ in _COLUMNS)
        rows = [tuple(asdict(m)[name] for name in _COLUMNS) for m in measurements]
        with self._transaction():
            self._database.executemany(f"INSERT OR REPLACE INTO records VALUES ({marks})", rows)

    def forget(self, operators: Iterable[Operator], target: Target, threads: int) -> None:
        """Drop what was measured of these operators on this machine."""
        rows = [(str(operator), target_key(target), self.machine, threads) for operator in operators]
        with self._transaction():
            where = "operator = ? AND target = ? AND machine = ? AND threads = ?"
            self._database.executemany(f"DELETE FROM records WHERE {where}", rows)

    def of(self, operator: Operator, target: Target) -> list[Measurement]:
        """Everything measured of an operator on such a target, the best first.

        That is of this machine, of as many threads as the target has, else of the fewest, chosen, and fastest.
        """
        return self._select("operator = ? AND target = ?", (str(operator), target_key(target)), target.cores)

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        """The fastest candidate of these templates, in their present versions; None where none was measured."""
        versions = target.templates()
        plans = set(candidates(operator, target, templates))
        for found in self.of(operator, target):
            known = versions.get(found.template) == found.version and found.seconds is not None
            if known and found.plan() in plans:
                return found.plan()
        return None

    def all(self) -> list[Measurement]:
        """Every record, in a fixed order."""
        return self._select("1 = 1", (), 0)

    def _select(self, where: str, values: tuple[object, ...], threads: int) -> list[Measurement]:
        order = "machine <> ?, threads <> ?, threads, stage DESC, seconds IS NULL, seconds, template, params"
        query = f"SELECT {', '.join(_COLUMNS)} FROM records WHERE {where} ORDER BY operator, target, {order}"
        with closing(self._database.execute(query, (*values, self.machine, threads))) as rows:
            return [Measurement(*row) for row in rows]

    def winners(self) -> Iterator[Measurement]:
        """The best record of every operator, target, machine and number of threads."""
        seen: set[tuple[str, str, str, int]] = set()
        for found in self.all():
            key = (found.operator, found.target, found.machine, found.threads)
            if found.seconds is not None and key not in seen:
                seen.add(key)
                yield found


def read_records(path: Path) -> RecordStore:
    """Records of a database or of JSON lines, read into memory; nothing is written.

    Raises:
        DataError: there is no such file, or it holds no records.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of tuning records; 'optkit tune' makes one")
    store = RecordStore(None)
    with path.open("rb") as stream:
        database = stream.read(len(_MAGIC)) == _MAGIC
    store.add(_read_database(path) if database else read_lines(path))
    return store


def _read_database(path: Path) -> list[Measurement]:
    """Every record of a database, which may lie where nothing can be written."""
    name = urllib.parse.quote(str(path.resolve()))
    for mode in ("mode=ro", "immutable=1"):  # the latter where the file's folder cannot be written either
        try:
            with closing(sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=_PATIENCE)) as database:
                found = int(database.execute("PRAGMA user_version").fetchone()[0])
                if found != SCHEMA:
                    raise DataError(f"{path}: records of schema {found}; this optkit knows {SCHEMA}")
                rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM records").fetchall()
                return [Measurement(*row) for row in rows]
        except sqlite3.Error as error:
            problem = error
    raise DataError(f"{path}: not a database of tuning records: {problem}") from problem


def write_lines(path: Path, measurements: Iterable[Measurement]) -> int:
    """Write records as JSON lines, one a record; how many there were."""
    lines = [json.dumps(asdict(m), sort_keys=True) for m in measurements]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read_lines(path: Path) -> list[Measurement]:
    """Records from JSON lines; DataError names the line that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = Measurement(**json.loads(line))
            Operator.parse(record.operator)
            record.plan()
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: not a tuning record: {error}") from error
        found.append(record)
    return found
