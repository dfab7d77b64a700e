"""What the sandbox remembers, in one SQLite file or in memory: jobs, videos, charges, uploads, the balance.

A job's state is never stored: it follows from when the job was made and when it will be ready, so a restart changes
nothing. This file never speaks HTTP and never renders.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_VIDEO_ID = "video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020"
SAMPLE_FILE = "generated/onerouter_0688d9c3-4e7f-45c5-a30d-7923dfd056a6.mp4"
SAMPLE_TASK_ID = "cgt-20251025081916-otter"
SAMPLE_CREATED = 1761380356.0
_VERSION = 1
_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value);
CREATE TABLE jobs(
  number INTEGER PRIMARY KEY, task_id TEXT UNIQUE NOT NULL, kind TEXT, model TEXT, family TEXT, prompt TEXT, body TEXT,
  parent TEXT, takes INTEGER, created REAL, ready REAL, cost REAL, charged INTEGER, outcome TEXT, reason TEXT,
  lost INTEGER, expired INTEGER, idempotency_key TEXT, digest BLOB, form TEXT);
CREATE INDEX jobs_by_key ON jobs(idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE videos(video_id TEXT PRIMARY KEY, file TEXT UNIQUE NOT NULL, number INTEGER, take INTEGER) WITHOUT ROWID;
CREATE INDEX videos_by_number ON videos(number);
CREATE TABLE charges(
  number INTEGER PRIMARY KEY, job INTEGER, kind TEXT, prompt TEXT, model TEXT, amount REAL, idempotency_key TEXT,
  request_id TEXT, charged_at REAL);
CREATE TABLE assets(
  number INTEGER PRIMARY KEY, uri TEXT UNIQUE, file TEXT UNIQUE, name TEXT, mime TEXT, data BLOB, source TEXT,
  model TEXT, created REAL, ready REAL, verdict TEXT, reason TEXT);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredJob:
    """One accepted generation or edit."""

    number: int
    task_id: str
    kind: str
    model: str
    family: str
    prompt: str
    body: str
    parent: str | None
    takes: int
    created: float
    ready: float
    cost: float
    charged: bool
    outcome: str
    reason: str | None
    lost: bool
    expired: bool
    idempotency_key: str | None
    digest: bytes
    form: str

    def state(self, now: float) -> str:
        """Return ``created``, ``running``, ``completed`` or ``failed``.

        Args:
            now: Seconds since 1970.
        """
        if now >= self.ready:
            return self.outcome
        return "created" if now - self.created < 0.1 * (self.ready - self.created) else "running"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVideo:
    """One result of a job."""

    video_id: str
    file: str
    number: int
    take: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """Money that was taken, once.

    Attributes:
        number: Counted from 1.
        job: Number of the job.
        kind: ``generation`` or ``edit``.
        prompt: What was asked for.
        model: Of whom.
        amount: US dollars.
        idempotency_key: The key that came with the request.
        request_id: The id of the answer.
        charged_at: Seconds since 1970.
    """

    number: int
    job: int
    kind: str
    prompt: str
    model: str
    amount: float
    idempotency_key: str | None
    request_id: str
    charged_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAsset:
    """One uploaded file; ``data`` is ``None`` for a URL that the sandbox does not hold."""

    number: int
    uri: str
    file: str
    name: str
    mime: str
    data: bytes | None
    source: str | None
    model: str
    created: float
    ready: float
    verdict: str
    reason: str | None

    def state(self, now: float) -> str:
        """Return ``Processing``, ``Active``, ``Failed`` or ``Rejected``.

        Args:
            now: Seconds since 1970.
        """
        return self.verdict if now >= self.ready else "Processing"


class Store:
    """The memory of one sandbox.

    Args:
        path: The file, made when missing; ``None`` keeps everything in memory.
        balance: US dollars to start with.

    Raises:
        ValueError: The file is no sandbox state, or of another version.
    """

    def __init__(self, path: str | Path | None, balance: float) -> None:
        self._balance = balance
        self.path: Path | None = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        self._db = sqlite3.connect(":memory:" if path is None else str(path), isolation_level=None)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(
                f"{path} holds no state of a sandbox ({error}). Name another file, or remove it."
            ) from error
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, _VERSION}:
            raise ValueError(f"{self.path} is of version {version}, this sandbox reads {_VERSION}. Name another file.")
        if version == 0:
            if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ValueError(f"{self.path} is a database, but not a sandbox's. Name another file.")
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
            self._begin_life()
        self._uid = str(self.get("uid"))
        self._next = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM jobs").fetchone()[0]

    def _begin_life(self) -> None:
        self.put("uid", secrets.token_hex(8))
        self.put("balance", self._balance)
        sample = StoredJob(
            number=0,
            task_id=SAMPLE_TASK_ID,
            kind="generation",
            model="sora-2",
            family="sora-2",
            prompt="A cute baby sea otter",
            body=json.dumps({"model": "sora-2", "prompt": "A cute baby sea otter"}),
            parent=None,
            takes=1,
            created=SAMPLE_CREATED - 150,
            ready=SAMPLE_CREATED,
            cost=0.0,
            charged=False,
            outcome="completed",
            reason=None,
            lost=False,
            expired=False,
            idempotency_key=None,
            digest=b"",
            form="held",
        )
        self._insert_job(sample)
        self._db.execute("INSERT INTO videos VALUES(?,?,0,0)", (SAMPLE_VIDEO_ID, SAMPLE_FILE))

    def reset(self) -> None:
        """Forget everything but the ports."""
        self._db.execute("BEGIN")
        for table in ("jobs", "videos", "charges", "assets"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
        self._begin_life()
        self._db.execute("COMMIT")
        self._uid = str(self.get("uid"))
        self._next = 1

    def close(self) -> None:
        """Close the file; twice does no harm."""
        self._db.close()

    def get(self, name: str) -> Any:
        """Return a remembered value, or ``None``.

        Args:
            name: Its name.
        """
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def put(self, name: str, value: object) -> None:
        """Remember a value.

        Args:
            name: Its name.
            value: Text or number.
        """
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))

    def add_job(self, *, request_id: str, **values: Any) -> StoredJob:
        """Write down an accepted job, its videos and, if it is charged, its charge, all or nothing.

        Args:
            request_id: The id of the answer.
            values: The fields of ``StoredJob`` except its number and its task id.
        """
        number = self._next
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(values["created"]))
        job = StoredJob(number=number, task_id=f"cgt-{stamp}-{self._derive('task', number, 0)[:8]}", **values)
        self._db.execute("BEGIN")
        try:
            self._insert_job(job)
            for take in range(job.takes):
                name = self._derive("file", number, take)
                uuid = f"{name[:8]}-{name[8:12]}-4{name[13:16]}-a{name[17:20]}-{name[20:32]}"
                self._db.execute(
                    "INSERT INTO videos VALUES(?,?,?,?)",
                    (f"video_{self._derive('video', number, take)}", f"generated/onerouter_{uuid}.mp4", number, take),
                )
            if job.charged:
                self._db.execute(
                    "INSERT INTO charges VALUES(NULL,?,?,?,?,?,?,?,?)",
                    (
                        number,
                        job.kind,
                        job.prompt,
                        job.model,
                        job.cost,
                        job.idempotency_key,
                        request_id,
                        job.created,
                    ),
                )
                self._db.execute("UPDATE meta SET value=round(value-?,6) WHERE name='balance'", (job.cost,))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._next = number + 1
        return job

    def _insert_job(self, job: StoredJob) -> None:
        values = [getattr(job, name) for name in StoredJob.__slots__]
        self._db.execute(f"INSERT INTO jobs VALUES({','.join('?' * len(values))})", values)

    def _derive(self, *parts: object) -> str:
        return hashlib.blake2b(repr((self._uid, parts)).encode(), digest_size=24).hexdigest()

    def job_of_task(self, task_id: str) -> StoredJob | None:
        """Return the job with this task id.

        Args:
            task_id: The id that the answer carried.
        """
        return self._one_job("task_id=?", task_id)

    def job_of_number(self, number: int) -> StoredJob | None:
        """Return the job with this number.

        Args:
            number: Counted from 1; 0 is the specification's sample.
        """
        return self._one_job("number=?", number)

    def job_of_key(self, key: str) -> StoredJob | None:
        """Return the first job that came with this idempotency key.

        Args:
            key: The header's value.
        """
        return self._one_job("idempotency_key=? ORDER BY number LIMIT 1", key)

    def _one_job(self, where: str, value: object) -> StoredJob | None:
        row = self._db.execute(f"SELECT * FROM jobs WHERE {where}", (value,)).fetchone()  # noqa: S608 - constants
        return None if row is None else _read_job(row)

    def list_jobs(self, limit: int) -> list[StoredJob]:
        """Return the newest jobs, newest first.

        Args:
            limit: At most so many.
        """
        rows = self._db.execute("SELECT * FROM jobs ORDER BY number DESC LIMIT ?", (limit,))
        return [_read_job(row) for row in rows]

    def videos_of(self, number: int) -> list[StoredVideo]:
        """Return the videos of a job.

        Args:
            number: The job's number.
        """
        rows = self._db.execute("SELECT * FROM videos WHERE number=? ORDER BY take", (number,))
        return [StoredVideo(video_id=row[0], file=row[1], number=row[2], take=row[3]) for row in rows]

    def find_video(self, *, video_id: str | None = None, file: str | None = None) -> StoredVideo | None:
        """Return a video by its id or by its file.

        Args:
            video_id: The id.
            file: The name in its URL, decoded.
        """
        row = self._db.execute("SELECT * FROM videos WHERE video_id=? OR file=?", (video_id, file)).fetchone()
        return None if row is None else StoredVideo(video_id=row[0], file=row[1], number=row[2], take=row[3])

    def pending(self, now: float) -> list[float]:
        """Return when the unfinished jobs will be ready.

        Args:
            now: Seconds since 1970.
        """
        return [row[0] for row in self._db.execute("SELECT ready FROM jobs WHERE ready>?", (now,))]

    def finish_all(self, now: float) -> int:
        """Make every unfinished job ready now and return how many there were.

        Args:
            now: Seconds since 1970.
        """
        return self._db.execute("UPDATE jobs SET ready=? WHERE ready>?", (now, now)).rowcount

    def charges(self) -> list[Charge]:
        """Return every charge, oldest first."""
        rows = self._db.execute("SELECT * FROM charges ORDER BY number")
        return [Charge(**dict(zip(Charge.__slots__, row, strict=True))) for row in rows]

    def count_charges(self) -> dict[str, int]:
        """Return how often each prompt was charged."""
        rows = self._db.execute("SELECT prompt, count(*) FROM charges GROUP BY prompt ORDER BY min(number)")
        return {row[0]: row[1] for row in rows}

    def sum_charges(self) -> tuple[float, int]:
        """Return the US dollars charged so far, and how many charges there were."""
        amount, count = self._db.execute("SELECT coalesce(sum(amount), 0), count(*) FROM charges").fetchone()
        return round(amount, 4), count

    def add_asset(self, **values: Any) -> StoredAsset:
        """Write down an upload.

        Args:
            values: The fields of ``StoredAsset`` except its number, its URI and its file.
        """
        number = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM assets").fetchone()[0]
        name = self._derive("asset", number)[:20]
        asset = StoredAsset(number=number, uri=f"asset://asset-{name}", file=f"asset-{name}", **values)
        row = [getattr(asset, item) for item in StoredAsset.__slots__]
        self._db.execute(f"INSERT INTO assets VALUES({','.join('?' * len(row))})", row)
        return asset

    def find_asset(
        self, *, number: int | None = None, uri: str | None = None, file: str | None = None
    ) -> StoredAsset | None:
        """Return an upload by its number, its URI or its file.

        Args:
            number: Its id.
            uri: ``asset://...``.
            file: The name in its public URL.
        """
        row = self._db.execute("SELECT * FROM assets WHERE number=? OR uri=? OR file=?", (number, uri, file)).fetchone()
        return None if row is None else StoredAsset(**dict(zip(StoredAsset.__slots__, row, strict=True)))


def _read_job(row: tuple[Any, ...]) -> StoredJob:
    values = dict(zip(StoredJob.__slots__, row, strict=True))
    for name in ("charged", "lost", "expired"):
        values[name] = bool(values[name])
    return StoredJob(**values)
