"""What a command knows of each video that it makes or collects, from the first moment to the last line.

Everything that was paid is told before the command ends, however it ends: a result by its URL, a task by the command
that collects it, a lost answer by what is known of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videorouter import events
from videorouter.cli.console import clean, plain, say_size
from videorouter.cli.exits import Exit, exit_of, gravest
from videorouter.cli.reporting import collect_command, download_command, next_steps, report_error, show_error
from videorouter.errors import VideoRouterError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterable

    from videorouter.cli.console import Console
    from videorouter.cli.destination import Destination
    from videorouter.cli.progress import Board
    from videorouter.client import AsyncVideoRouter
    from videorouter.models import Download, InDoubt, Task, VideoResult


@dataclass(kw_only=True)
class CommandJob:
    """One prompt, task or URL of a command.

    Attributes:
        index: Its place on the command line, from 0.
        key: What the client's events call it: its idempotency key or task id.
        label: What it is called in words.
        name: What its file is called inside a folder.
        prompt: As it is sent.
        model: As it is sent.
        url: Of a download.
        task: The accepted task.
        task_id: The id of the accepted task.
        sent: Whether the request may have left.
        result: What was made.
        files: What was saved.
        error: What ended it.
        doubt: The client's record of a lost answer.
        crash: What ended it and is no error of the client: a closed pipe, a full disk, a defect.
        over: Whether its work has ended.
    """

    index: int
    key: str
    label: str
    name: str
    prompt: str | None = None
    model: str | None = None
    url: str | None = None
    task: Task | None = None
    task_id: str | None = None
    sent: bool = False
    result: VideoResult | None = None
    files: list[Download] = field(default_factory=list)
    error: VideoRouterError | None = None
    doubt: InDoubt | None = None
    crash: Exception | None = None
    over: bool = False

    @property
    def code(self) -> Exit:
        """The exit code that this job alone would give."""
        if self.error is None:
            return Exit.OK
        code = exit_of(self.error)
        # A file host's 404 is no refusal of the gateway: the video is made, and paid.
        return Exit.DOWNLOAD if self.result is not None and code is not Exit.USAGE else code


class CommandJobs:
    """The jobs of one command."""

    def __init__(
        self,
        jobs: Iterable[CommandJob],
        args: argparse.Namespace,
        console: Console,
        board: Board,
        destination: Destination,
    ) -> None:
        self.list: tuple[CommandJob, ...] = tuple(jobs)
        self._args = args
        self._console = console
        self._board = board
        self._destination = destination
        self._by_key = {job.key: job for job in self.list}
        self._told = 0

    def follow(self, event: events.Event) -> None:
        """Take in what the client tells."""
        job = self._by_key.get(event.call_id)
        if job is None:
            return
        if isinstance(event, events.AttemptStarted):
            job.sent = True
        elif isinstance(event, events.TaskAccepted):
            job.task_id = event.task_id or job.task_id
        elif isinstance(event, events.OutcomeInDoubt):
            job.doubt = event.record
            job.task_id = event.record.task_id or job.task_id
        words = say_event(event)
        if words:
            self._board.state(job.key, words)
        if self._console.verbose and (detail := tell_event(event)):
            self._console.say(self._console.style(f"  {job.label}: {detail}" if len(self.list) > 1 else detail, "dim"))

    async def run(self, router: AsyncVideoRouter, work: Callable[[CommandJob], Awaitable[None]]) -> Exit:
        """Run all jobs at once and tell each as it ends; what ``work`` raises becomes its job's error."""
        with self._board:
            for job in self.list:
                self._board.add(job.key, job.label)
            try:
                async with asyncio.TaskGroup() as group:
                    for job in self.list:
                        group.create_task(self._run_one(job, work))
            except asyncio.CancelledError:
                self._tell_unfinished(router)
                raise
        for job in self.list:
            self._tell_mismatches(job)
            if job.error is not None:
                label = job.label if len(self.list) > 1 else None
                report_error(self._console, job.error, self._args, label=label, steps=self._steps(job))
        for job in self.list:
            if job.crash is not None:
                raise job.crash
        return gravest(job.code for job in self.list)

    async def save(self, router: AsyncVideoRouter, job: CommandJob) -> None:
        """Save a job's videos where the command line wants them."""
        if job.result is None:
            return
        if self._destination.stdout:
            await self._pour(router, job)
            return
        # Bytes that came inline have no URL to print: they must be kept somewhere.
        videos = [video for video in job.result.videos if self._destination.wanted or video.url is None]
        places = [await asyncio.to_thread(self._destination.place, job.index + 1, job.name) for _ in videos]
        if len(places) > 1 and not self._destination.folder:
            places = [place.with_stem(f"{place.stem}-{number}") for number, place in enumerate(places, 1)]
        found = await router.download(
            videos,
            places,
            return_exceptions=True,
            check=not getattr(self._args, "no_check", False),
            on_progress=partial(self._progress, job),
        )
        job.files += [saved for saved in found if not isinstance(saved, VideoRouterError)]
        for error in found:
            if isinstance(error, VideoRouterError):
                raise error

    def _progress(self, job: CommandJob, event: events.Event) -> None:
        if isinstance(event, events.DownloadProgressed):
            self._board.transfer(job.key, event.received, event.total)

    async def _pour(self, router: AsyncVideoRouter, job: CommandJob) -> None:
        assert job.result is not None  # noqa: S101  save() has looked
        with tempfile.TemporaryDirectory(prefix="videorouter-") as folder:
            download = await router.save(
                job.result.video,
                Path(folder) / "video.mp4",
                check=not getattr(self._args, "no_check", False),
                on_progress=partial(self._progress, job),
            )
            job.files.append(download)

            def copy() -> None:
                with download.path.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()

            await asyncio.to_thread(copy)

    def _steps(self, job: CommandJob) -> list[str]:
        """What to do about a job's error; a video that was not saved is downloaded by its whole URL."""
        assert job.error is not None  # noqa: S101  the callers have looked
        output = self._destination.spell(job.index + 1)
        if job.result is not None and job.code is Exit.DOWNLOAD:
            saved = {download.url for download in job.files}
            urls = [video.url for video in job.result.videos if video.url is not None and video.url not in saved]
            return [download_command(self._args, url, output) for url in urls]
        return next_steps(job.error, self._args, output)

    async def _run_one(self, job: CommandJob, work: Callable[[CommandJob], Awaitable[None]]) -> None:
        try:
            await work(job)
        except VideoRouterError as error:
            job.error = error
            job.task_id = job.task_id or error.task_id
        except Exception as error:  # noqa: BLE001  it is raised when the other jobs, which are paid too, are done
            job.crash = error
        job.over = True
        if job.crash is not None:
            self._board.end(job.key, type(job.crash).__name__, ok=False)
            self._tell_lost(job)
        elif job.error is None:
            self._board.end(job.key, self._say_done(job), ok=True)
        else:
            self._board.end(job.key, _say_failure(job), ok=False)
        self._tell_finished()

    def _say_done(self, job: CommandJob) -> str:
        words = []
        if job.files and not self._destination.stdout:
            words.append(", ".join(f"{clean(saved.file)} ({_say_file(saved)})" for saved in job.files))
        elif job.result is None and job.task_id:
            words.append(f"accepted, task {clean(job.task_id)}")
        if job.result is not None and job.result.cost is not None:
            words.append(f"${job.result.cost:.4f}")
        return ", ".join(words) or "done"

    def _tell_mismatches(self, job: CommandJob) -> None:
        """A paid video that is not what was asked for is told, and is no failure."""
        for saved in job.files:
            about = f"{clean(job.label)}: " if self._destination.stdout else f"{clean(saved.file)}: "
            for mismatch in saved.mismatches:
                self._console.tell(
                    f"{self._console.style('mismatch:', 'yellow', 'bold')} {about}{clean(str(mismatch))}."
                )

    def _tell_finished(self) -> None:
        """Write the data of every job that is over, in order, as soon as all before it are."""
        while self._told < len(self.list) and self.list[self._told].over:
            job = self.list[self._told]
            self._told += 1
            try:
                self._write(job)
            except BrokenPipeError as error:
                job.crash = job.crash or error
                self._tell_lost(job)

    def _tell_lost(self, job: CommandJob) -> None:
        """Nobody reads stdout any more, or worse: what is paid is told on stderr instead."""
        for video in job.result.videos if job.result is not None else ():
            if video.url is not None:
                command = download_command(self._args, video.url)
                self._console.tell(
                    f"{clean(job.label)}: made and paid; {self._console.style('next:', 'cyan')} {command}"
                )

    def _write(self, job: CommandJob) -> None:
        if self._console.json and not self._destination.stdout:
            self._console.record(self._show(job))
        elif self._destination.stdout:
            return
        elif job.files:
            for saved in job.files:
                self._console.data(saved.file)
        elif job.result is not None:
            for video in job.result.videos:
                self._console.data(video.url or video.video_id or "")
        elif job.error is None and job.task_id is not None:
            self._console.data(job.task_id)

    def _show(self, job: CommandJob) -> dict[str, Any]:
        shown: dict[str, Any] = {"index": job.index, "ok": job.error is None}
        for name in ("prompt", "model", "url", "task_id"):
            if getattr(job, name) is not None:
                shown[name] = getattr(job, name)
        if job.result is not None:
            shown |= plain(job.result)
        if job.files:
            shown["files"] = [plain(saved) for saved in job.files]
        if job.error is not None:
            shown["error"] = show_error(job.error, job.code, self._steps(job))
        return shown

    def _tell_unfinished(self, router: AsyncVideoRouter) -> None:
        """The command was interrupted: say what is paid, and how to get it."""
        doubts = {record.idempotency_key: record for record in router.in_doubt}
        for job in self.list[self._told :]:
            if not job.over:
                job.doubt = doubts.get(job.key, job.doubt)
                if job.doubt is not None:
                    job.task_id = job.task_id or job.doubt.task_id
                self._tell_one(job)
            else:
                with contextlib.suppress(BrokenPipeError):
                    self._write(job)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()

    def _tell_one(self, job: CommandJob) -> None:
        console, mark = self._console, self._console.style("interrupted:", "yellow", "bold")
        next_ = self._console.style("next:", "cyan")
        label = f"{job.label}: " if len(self.list) > 1 else ""
        if job.result is not None:
            console.tell(f"{mark} {label}the video is finished and paid; it was not saved whole.")
            for video in job.result.videos:
                if video.url is not None:
                    console.data(video.url)
                    console.tell(
                        f"  {next_} {download_command(self._args, video.url, self._destination.spell(job.index + 1))}"
                    )
        elif job.url is not None:
            console.tell(f"{mark} {label}the download was not finished; it goes on where it stopped.")
            console.tell(f"  {next_} {download_command(self._args, job.url, self._destination.spell(job.index + 1))}")
        elif job.task_id:
            self._tell_task(job, f"{mark} {label}")
        elif job.doubt is not None:
            console.tell(
                f"{mark} {label}the request had left and its answer did not come: it may have been accepted and "
                f"billed. Idempotency key {clean(job.doubt.idempotency_key)}."
            )
            console.tell(f"  {next_} look on the vendor's usage page before you run it again")
        else:
            console.tell(f"{mark} {label}nothing was sent, so nothing was bought.")

    def _tell_task(self, job: CommandJob, head: str) -> None:
        assert job.task_id is not None  # noqa: S101  the caller has looked
        args, console, output = self._args, self._console, self._destination.spell(job.index + 1)
        if getattr(args, "sandbox", False) and not args.sandbox_state:
            console.tell(
                f"{head}task {clean(job.task_id)} ends with its sandbox (nothing was paid). To collect tasks later, keep "
                "the sandbox's state with --sandbox-state FILE, or run `videorouter sandbox` and use --base-url."
            )
            return
        console.tell(f"{head}task {clean(job.task_id)} is accepted and goes on; collecting it costs nothing more.")
        console.tell(f"  {self._console.style('next:', 'cyan')} {collect_command(args, job.task_id, output)}")


def say_event(event: events.Event) -> str | None:
    """An event as the state of its job, where it is one."""
    match event:
        case events.AttemptStarted(attempt=attempt):
            return "sending" if attempt <= 1 else f"sending (attempt {attempt})"
        case events.RetryScheduled(wait=wait, reason=reason):
            return f"waits {wait:.1f} s: {clean(reason)}"
        case events.TaskAccepted(task_id=task_id):
            return f"accepted, task {clean(task_id)}" if task_id else "accepted"
        case events.TaskPolled(task_id=task_id, status=status):
            return f"{clean(status)}, task {clean(task_id)}" if status else None
        case _:
            return None


def tell_event(event: events.Event) -> str | None:
    """An event in full, for ``--verbose``."""
    values = {name: getattr(event, name) for name in event.__struct_fields__ if name not in {"call_id", "record"}}
    known = [f"{name} {clean(value)}" for name, value in values.items() if value not in (None, 0.0)]
    return f"{type(event).__name__}: {', '.join(known)}" if known else None


def _say_failure(job: CommandJob) -> str:
    return {
        Exit.RUNNING: "still running",
        Exit.IN_DOUBT: "in doubt",
        Exit.DOWNLOAD: "made, not saved",
        Exit.POLICY: "refused by moderation",
        Exit.TASK_FAILED: "failed",
        Exit.NOT_SENT: "not sent",
    }.get(job.code, "refused" if job.error is not None and job.error.status else "failed")


def _say_file(saved: Download) -> str:
    """A file's size, and what its video is."""
    words = [say_size(saved.size)]
    media = saved.media
    if media is not None:
        words += [f"{media.seconds:.4g} s"] if media.seconds else []
        words += [f"{media.width}x{media.height}"] if media.width and media.height else []
        words += ["no sound"] if media.has_sound is False else []
    return ", ".join(words)
