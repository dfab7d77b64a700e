"""Plain values that users hold: results, tasks, batch items, downloads.

Every record is a frozen msgspec struct and goes straight out of a msgspec or Litestar endpoint; ``to_dict`` serves
everyone else. What is reachable but must not be encoded (the raw answer, an exception) stands beside the fields, and
travels with pickling and copying. This file never performs I/O.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from videorouter.errors import VideoRouterError
from videorouter.lenient_json import decode_raw
from videorouter.plain import PathObject, ReadableFile, UploadedFile, URLObject
from videorouter.record import AS_IS, Record

TaskState = Literal["pending", "completed", "failed"]
ItemState = Literal["not_sent", "sending", "accepted", "done", "refused", "failed", "in_doubt", "lost", "cancelled"]


class Video(Record, frozen=True, kw_only=True):
    """One finished video.

    Attributes:
        url: Where the MP4 lies. Public, and gone after an unknown time: save it at once. ``None`` for inline bytes.
        video_id: The gateway's id, which ``edit`` takes. Absent in some answers.
        revised_prompt: The prompt as the gateway rewrote it, when it says so.
        mime_type: The type of inline bytes, when the gateway names one.
    """

    url: str | None = None
    video_id: str | None = None
    revised_prompt: str | None = None
    mime_type: str | None = None

    @property
    def data(self) -> bytes | None:
        """The bytes themselves, when the gateway sent them inline instead of a URL."""
        data = self.__dict__.get("data_")
        return data if data is None or isinstance(data, bytes) else bytes(data)  # of a large one, read from its file

    @property
    def model(self) -> str | None:
        """The model that made it, as far as this process knows."""
        model: str | None = self.__dict__.get("model_")
        return model

    def _repr_html_(self) -> str:
        """A player for notebooks."""
        if self.url is None:
            return f"<code>{html.escape(repr(self))}</code>"
        url = html.escape(self.url, quote=True)
        caption = html.escape(self.revised_prompt or self.video_id or "")
        return (
            f'<figure style="margin:0"><video src="{url}" controls muted loop playsinline preload="metadata" '
            f'style="max-width:100%;width:480px;border-radius:8px"></video>'
            f'<figcaption style="font:12px sans-serif;opacity:.7">{caption}</figcaption></figure>'
        )


class SkippedModel(Record, frozen=True, kw_only=True):
    """A model that a fallback list named and that did not make the video, and why."""

    model: str
    reason: str
    error: str
    status: int | None = None


class VideoResult(Record, frozen=True, kw_only=True):
    """The outcome of one generation or edit.

    Attributes:
        videos: What was made, in the gateway's order. Never empty.
        created: Unix time in seconds, as the gateway gave it.
        request_id: The gateway's id of the request, for its support.
        task_id: The id of the task, when the gateway worked in task mode.
        cost: US dollars, when the gateway reports them.
        model: The model that was asked for (in a fallback: the one that made it).
        idempotency_key: The key that was sent with the request.
        skipped: Models of a fallback list that were tried before this one.
        unusable: What the answer lists beside the videos and no client can fetch, each address cut to 200 characters;
            empty for one without an address.
    """

    videos: tuple[Video, ...]
    created: int | None = None
    request_id: str | None = None
    task_id: str | None = None
    cost: float | None = None
    model: str | None = None
    idempotency_key: str | None = None
    skipped: tuple[SkippedModel, ...] = ()
    unusable: tuple[str, ...] = ()

    @property
    def video(self) -> Video:
        """The first video."""
        return self.videos[0]

    @property
    def url(self) -> str | None:
        """The first video's URL."""
        return self.videos[0].url

    @property
    def video_id(self) -> str | None:
        """The first video's id."""
        return self.videos[0].video_id

    @property
    def raw(self) -> Any:
        """The gateway's whole answer, decoded, with every field that has no name here. Never encoded."""
        return decode_raw(self.__dict__.get("raw_"))

    def _repr_html_(self) -> str:
        players = "".join(video._repr_html_() for video in self.videos)
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{players}</div>'


class TaskStatus(Record, frozen=True, kw_only=True):
    """One look at a task.

    Attributes:
        task_id: Opaque.
        state: ``pending``, ``completed`` or ``failed``.
        status: The gateway's own word, as it was sent.
        result: The finished result, when ``state`` is ``completed``.
        fail_reason: Why it failed, as the gateway says it.
        cost: US dollars, when the gateway reports them.
    """

    task_id: str
    state: TaskState
    status: str | None = None
    result: VideoResult | None = None
    fail_reason: str | None = None
    cost: float | None = None

    @property
    def done(self) -> bool:
        """Whether it will change no more."""
        return self.state != "pending"

    @property
    def raw(self) -> Any:
        """The gateway's whole answer, decoded. Never encoded."""
        return decode_raw(self.__dict__.get("raw_"))


class Task(Record, frozen=True, kw_only=True):
    """An accepted job, whole: ``router.wait(task)`` collects it.

    ``to_dict`` stores it with its result or where it runs; ``wait(Task.from_dict(stored))`` collects it in another process.

    Attributes:
        id: Opaque; ``None`` when the gateway held the request and the result is already here.
        model: The model that was asked for.
        result: The finished result, when it is already known.
        status: The gateway's own word for its state at acceptance.
        request_id: The gateway's id of the request.
        idempotency_key: The key that was sent with the request.
        poll_url: Where its state is read, on the host that accepted it. Followed only to the client's own origins.
    """

    id: str | None
    model: str | None = None
    result: VideoResult | None = None
    status: str | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    poll_url: str | None = None

    @property
    def done(self) -> bool:
        """Whether the result is already here."""
        return self.result is not None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain Python values, ready for any JSON encoder, with the bytes of inline videos in base64."""
        plain = super().to_dict()
        videos = self.result.videos if self.result is not None else ()
        for number, video in enumerate(videos):
            if video.data is not None:
                plain["result"]["videos"][number]["data"] = base64.b64encode(video.data).decode()
        return plain

    @classmethod
    def _read(cls, value: object) -> Task:
        return value if isinstance(value, cls) else cls.from_dict(value)  # type: ignore[arg-type]  # it refuses the rest

    @classmethod
    def of(cls, source: VideoRouterError | InDoubt) -> Task | None:
        """The accepted task that an error or a record speaks of, on the host that has it; ``None`` when it names none."""
        facts = {name: getattr(source, name) for name in ("model", "request_id", "idempotency_key", "poll_url")}
        task = cls(id=source.task_id, result=getattr(source, "result", None), **facts)
        return None if task.id is None and task.result is None else task

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Task:
        """The task that ``to_dict`` gave, for ``wait``.

        Args:
            stored: What ``to_dict`` returned, perhaps by way of JSON.

        Returns:
            The task, equal to the one that was stored.

        Raises:
            ValueError: It is nothing of the kind.
        """
        try:
            task = msgspec.convert(stored, cls)
            videos = (stored.get("result") or {}).get("videos", ())
            for video, plain in zip(task.result.videos if task.result is not None else (), videos, strict=True):
                if "data" in plain:
                    video.with_extras(data_=base64.b64decode(plain["data"], validate=True))
        except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
            msg = f"This is not a stored task ({error}). Task.from_dict takes the result of task.to_dict()."
            raise ValueError(msg) from error
        return task


class InDoubt(Record, frozen=True, kw_only=True):
    """A request that may have been accepted and billed and whose answer nobody has.

    Attributes:
        idempotency_key: The key that was sent with it.
        model: The model that was asked for.
        verb: ``generate`` or ``edit``.
        phase: How far it got.
        request_id: The gateway's id, when an answer's head came in.
        task_id: The task, when the answer was caught after all: then ``router.wait(record)`` collects it.
        at: Unix time in seconds when it was given up.
        reason: Why, as text.
        poll_url: Where the task's state is read, when it is known.
    """

    idempotency_key: str
    model: str | None = None
    verb: str = "generate"
    phase: str | None = None
    request_id: str | None = None
    task_id: str | None = None
    at: float | None = None
    reason: str | None = None
    poll_url: str | None = None

    @property
    def result(self) -> VideoResult | None:
        """The finished result, when the answer came in after the call had been cancelled."""
        result: VideoResult | None = self.__dict__.get("result_")
        return result


class Failure(Record, frozen=True, kw_only=True):
    """An error as plain data, for encoders and the journal."""

    type: str
    message: str
    status: int | None = None
    code: int | str | None = None
    request_id: str | None = None
    in_doubt: bool = False


class Media(Record, frozen=True, kw_only=True):
    """What a video file says of itself; ``None`` is what it does not say.

    Attributes:
        container: ``mp4``, ``mov``, ``webm``, ``mkv`` or ``gif``.
        seconds: How long it plays.
        width: Pixels as a player shows them: pixels that are not square and a rotation are taken into account.
        height: As ``width``.
        fps: Frames a second, on average.
        video_codec: As ffprobe names it: ``h264``, ``hevc``, ``av1``, ``vp9``, ...
        audio_codec: As ffprobe names it: ``aac``, ``opus``, ...; ``pcm`` for all uncompressed sound.
        has_sound: Whether it has an audio track.
    """

    container: str
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    has_sound: bool | None = None


class Mismatch(Record, frozen=True, kw_only=True):
    """One way in which a video is not what was asked for.

    Attributes:
        field: The request's field: ``duration``, ``aspect_ratio``, ``resolution``, ``generate_audio``.
        asked: What it said, in words.
        delivered: What came, in words.
    """

    field: str
    asked: str
    delivered: str

    def __str__(self) -> str:
        return f"asked for {self.asked}, got {self.delivered}"


class BatchItem(Record, frozen=True, kw_only=True):
    """One item of a batch, when its state has become final for this run.

    Attributes:
        index: Its place in the input, from 0.
        id: Given by the caller, else a digest of the request and its occurrence number.
        state: One of ``ItemState``.
        prompt: As it was sent.
        model: As it was sent.
        result: What was made.
        failure: What went wrong, as data; ``error`` is the exception.
        cost: US dollars: the gateway's own figure, else the price that the caller gave.
        task_id: The task, in task mode.
        files: Where the videos were saved.
        sha256: Of the first file, when it was asked for.
        media: What the first file says of its video.
        mismatches: How the files differ from what was asked for.
        resumed: Whether an earlier run of the same journal had finished it.
        meta: The entry's own ``meta``, JSON values, which was kept and not sent.
        in_input: Whether this run's input has it. ``False`` is what only an earlier input had, and what was paid for all the
            same; its ``index`` comes after those of the input.
    """

    index: int
    id: str
    state: ItemState
    prompt: str | None = None
    model: str | None = None
    result: VideoResult | None = None
    failure: Failure | None = None
    cost: float | None = None
    task_id: str | None = None
    files: tuple[str, ...] = ()
    sha256: str | None = None
    media: Media | None = None
    mismatches: tuple[Mismatch, ...] = ()
    resumed: bool = False
    meta: Any = None
    in_input: bool = True

    @property
    def path(self) -> Path | None:
        """The first saved file; ``None`` for an object of a store, whose URL is in ``files``."""
        return Path(self.files[0]) if self.files and "://" not in self.files[0] else None

    @property
    def error(self) -> VideoRouterError | None:
        """The exception, when there was one."""
        error: VideoRouterError | None = self.__dict__.get("error_")
        return error

    @property
    def fetched(self) -> bool:
        """Whether this run went to fetch its videos; ``files`` or ``error`` say what came of it."""
        return bool(self.__dict__.get("fetched_"))

    @property
    def ok(self) -> bool:
        """Whether it is done."""
        return self.state == "done"

    def _repr_html_(self) -> str:
        inner = self.result._repr_html_() if self.result else html.escape(self.failure.message if self.failure else "")
        return f"<div><b>{self.index}</b> {html.escape(self.state)}: {html.escape(self.prompt or '')}{inner}</div>"


_STATES = ("done", "refused", "failed", "accepted", "in_doubt", "lost", "not_sent", "cancelled")


class BatchSummary(Record, frozen=True, kw_only=True):
    """How a batch stands: one count per state, and what it cost.

    Attributes:
        done: Paid and in hand.
        refused: Nothing was bought.
        failed: Accepted, then failed by the gateway.
        accepted: Paid, running; the next run collects them.
        in_doubt: May have been billed; nobody knows.
        not_sent: Never sent.
        lost: Accepted, and the gateway knows its task no more; may have been billed.
        cancelled: Taken back before it was sent.
        not_in_input: Items of the journal that this run's input does not have. No other count has them; of a stream they are
            known at its end.
        cost: US dollars of what is done, as far as they are known; ``None`` where they are known of nothing.
        cost_in_doubt: US dollars that the items in doubt may have cost, as far as prices are known; ``None`` where none is.
        unpriced: Items that were bought, or may have been, for a price that nobody knows: neither you nor the gateway said it.
        mismatched: Items whose saved videos are not what was asked for.
        stopped: Why dispatch stopped early, as text.
        elapsed: Seconds of this run.
    """

    done: int = 0
    refused: int = 0
    failed: int = 0
    accepted: int = 0
    in_doubt: int = 0
    not_sent: int = 0
    lost: int = 0
    cancelled: int = 0
    not_in_input: int = 0
    cost: float | None = 0.0
    cost_in_doubt: float | None = 0.0
    unpriced: int = 0
    mismatched: int = 0
    stopped: str | None = None
    elapsed: float = 0.0

    @property
    def total(self) -> int:
        """All items of the input that the batch has met."""
        return sum(getattr(self, state) for state in _STATES)

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {name.replace("_", " "): getattr(self, name) for name in _STATES}
        money = {"cost": self.cost, "cost in doubt": self.cost_in_doubt}
        facts |= {name: "unknown" if amount is None else f"${amount:.2f}" for name, amount in money.items()}
        facts |= {
            "not in this input": self.not_in_input or "",
            "without a price": self.unpriced or "",
            "seconds": f"{self.elapsed:.1f}",
        }
        facts |= {"not as asked": self.mismatched or "", "stopped": self.stopped or ""}
        heads = "".join(f"<th>{name}</th>" for name, value in facts.items() if value != "")
        cells = "".join(f"<td>{html.escape(str(value))}</td>" for value in facts.values() if value != "")
        return f"<table><tr>{heads}</tr><tr>{cells}</tr></table>"


class Download(Record, frozen=True, kw_only=True):
    """A file that was saved whole.

    Attributes:
        file: Where it stands, a path or an object's URL; ``path`` is the same as a ``pathlib.Path``.
        size: Bytes.
        url: Where it came from; ``None`` for inline bytes.
        sha256: Hex digest, when it was asked for.
        resumed_from: Bytes that an earlier attempt had already brought.
        transferred: Bytes that crossed the wire in this call.
        elapsed: Seconds.
        media: What the file says of its video; ``None`` when it is no video file of a known kind.
        mismatches: How it differs from what the request asked for, as far as both are known.
    """

    file: str = msgspec.field(name="path")
    size: int
    url: str | None = None
    sha256: str | None = None
    resumed_from: int = 0
    transferred: int = 0
    elapsed: float = 0.0
    media: Media | None = None
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def path(self) -> Path:
        """Where the file stands."""
        return Path(self.file)

    @property
    def all(self) -> tuple[Download, ...]:
        """Every file of the call: more than this one when the result had several videos."""
        found: tuple[Download, ...] | None = self.__dict__.get("all_")
        return found if found is not None else (self,)

    def __fspath__(self) -> str:
        return self.file


class Model(Record, frozen=True, kw_only=True):
    """A row of the gateway's catalogue, leniently read.

    Attributes:
        id: What ``model=`` takes.
        display_name: For people.
        category: The gateway's ``category_type``.
        min_price: US dollars a request, the least that the gateway names.
        deprecated: Whether the gateway says so.
        display_only: Whether it is listed but cannot be called.
    """

    id: str
    display_name: str | None = None
    category: str | None = None
    min_price: float | None = None
    deprecated: bool = False
    display_only: bool = False

    @property
    def raw(self) -> Any:
        """The whole row, decoded. Never encoded."""
        return decode_raw(self.__dict__.get("raw_"))


class Balance(Record, frozen=True, kw_only=True):
    """What is left on the account.

    Attributes:
        credit_balance: US dollars.
        account_name: As the gateway gives it.
    """

    credit_balance: float
    account_name: str | None = None


class Asset(Record, frozen=True, kw_only=True):
    """An uploaded input that can stand wherever a URL field is taken.

    Attributes:
        uri: ``asset://...`` for models that take it.
        id: The gateway's id of the resource.
        url: Its public URL.
        status: The gateway's own word for its review state.
        sha256: Hex digest of what was uploaded, when it is known.
        model: The model it was uploaded for.
    """

    uri: str | None = None
    id: str | None = None
    url: str | None = None
    status: str | None = None
    sha256: str | None = None
    model: str | None = None


Content: TypeAlias = PathObject | bytes | bytearray | memoryview | ReadableFile | UploadedFile
Input: TypeAlias = Annotated[str | URLObject | Content | Asset | Video | VideoResult, AS_IS]
"""What a URL field takes: a URL, or something that is uploaded first."""


class Stats(Record, frozen=True, kw_only=True):
    """Counters of a client at one moment.

    Attributes:
        in_flight: Jobs that hold a slot.
        queued: Jobs that wait for one.
        paused_until: ``time.monotonic()`` value until which a model waits after a refusal; 0 when none does.
        limit: Jobs that may run at once now.
        calls: Logical calls begun.
        attempts: Requests put on the wire.
        retries: Of these, how many were retries.
        succeeded: Calls that brought a result.
        failed: Calls that raised.
        in_doubt: Requests whose outcome nobody knows.
        tasks_watched: Tasks that are being polled.
        connections: Open connections, idle ones included.
    """

    in_flight: int = 0
    queued: int = 0
    paused_until: float = 0.0
    limit: int = 0
    calls: int = 0
    attempts: int = 0
    retries: int = 0
    succeeded: int = 0
    failed: int = 0
    in_doubt: int = 0
    tasks_watched: int = 0
    connections: int = 0


class DrainReport(Record, frozen=True, kw_only=True):
    """What was left when a client was drained.

    Attributes:
        finished: Whether nothing was left.
        unfinished: Task ids that run on; ``wait`` collects them later.
        in_doubt: Requests whose outcome nobody knows.
        in_flight: Jobs that were still running when the time was up.
    """

    finished: bool
    unfinished: tuple[str, ...] = ()
    in_doubt: tuple[InDoubt, ...] = ()
    in_flight: int = 0
