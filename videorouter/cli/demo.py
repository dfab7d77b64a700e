"""``videorouter demo``: several videos from a sandbox, one of them edited, all checked, and a page that shows them.

It needs no key, spends no money and leaves this machine's network alone: only loopback is spoken to.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videorouter.cli.console import Console, clean, say_size, say_time
from videorouter.cli.driver import drive
from videorouter.cli.exits import Exit
from videorouter.cli.jobs import say_event
from videorouter.cli.progress import make_board
from videorouter.cli.session import SANDBOX_KEY, find_sandbox
from videorouter.client import AsyncVideoRouter
from videorouter.downloads.names import join_words
from videorouter.errors import ConfigurationError
from videorouter.events import DownloadProgressed

if TYPE_CHECKING:
    import argparse

    from videorouter.cli.gallery import Card
    from videorouter.cli.progress import Board
    from videorouter.events import Event
    from videorouter.models import VideoResult
    from videorouter.sandbox import Sandbox

_TIMEOUT = 120.0


@dataclass(frozen=True, kw_only=True)
class DemoVideo:
    """One video that the demo asks for.

    Attributes:
        prompt: What it shows.
        model: Who makes it.
        fields: Further fields of the request.
    """

    prompt: str
    model: str
    fields: dict[str, Any]


VIDEOS = (
    DemoVideo(prompt="A cute baby sea otter", model="veo3-fast", fields={}),
    DemoVideo(
        prompt="A heron at dawn over a misty lake", model="google/veo3.1/text-to-video", fields={"duration": "4s"}
    ),
    DemoVideo(prompt="Neon rain in a narrow street", model="sora-2", fields={"seed": 7}),
    DemoVideo(
        prompt="A paper boat crosses a puddle",
        model="bytedance/seedance-2.0/text-to-video",
        fields={"aspect_ratio": "9:16"},
    ),
    DemoVideo(prompt="Northern lights above a lighthouse", model="kling-v2", fields={}),
)
EDIT = DemoVideo(prompt="Make it snow", model="sora-2-video-to-video", fields={})
EDITED = 2


def run(args: argparse.Namespace) -> int:
    """Make the demo."""
    console = Console.of(args)
    return drive(lambda: _Demo(args, console).run(), args, console)


class _Demo:
    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self._folder = Path(args.output)
        self._open = args.open
        self._console = console
        self._board: Board = make_board(console)
        self._rows: set[str] = set()

    async def run(self) -> int:
        sandbox_class = find_sandbox()
        console = self._console
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"The folder {self._folder} cannot be made: {error.strerror}. Choose another one with -o FOLDER."
            raise ConfigurationError(msg) from error
        began = time.monotonic()
        async with sandbox_class(mode="mixed", profile="quick") as sandbox:
            console.say(
                console.style("A sandbox gateway runs on this machine: real HTTP, real files, no money.", "bold")
            )
            console.say(console.style(f"  {sandbox.base_url}\n", "dim"))
            cards = await self._make(sandbox)
            charges = await sandbox.charges()
        if sum(charges.values()) != len(cards):
            console.tell(
                f"The sandbox charged {sum(charges.values())} jobs for {len(cards)} prompts: that is a defect."
            )
            return Exit.FAILURE
        page = self._folder / "index.html"
        await asyncio.to_thread(self._write_page, page, cards, time.monotonic() - began)
        self._tell(page, cards, time.monotonic() - began)
        return Exit.OK

    async def _make(self, sandbox: Sandbox) -> list[Card]:
        async with AsyncVideoRouter(
            SANDBOX_KEY, base_url=sandbox.base_url, timeout=_TIMEOUT, trust_env=False, on_event=self._follow
        ) as router:
            with self._board:
                keys = [self._add_row(video, "sending") for video in VIDEOS]
                last = self._add_row(EDIT, f"waits for “{VIDEOS[EDITED].prompt}”")
                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = [
                            group.create_task(self._generate(router, video, key))
                            for video, key in zip(VIDEOS, keys, strict=True)
                        ]
                        edit = group.create_task(self._edit(router, tasks[EDITED], last))
                except ExceptionGroup as errors:
                    raise errors.exceptions[0] from errors
        cards = [task.result()[1] for task in tasks]
        cards.insert(EDITED + 1, edit.result())
        return cards

    async def _generate(self, router: AsyncVideoRouter, video: DemoVideo, key: str) -> tuple[VideoResult, Card]:
        began = time.monotonic()
        result = await router.generate(video.prompt, model=video.model, idempotency_key=key, **video.fields)
        return result, await self._collect(router, video, key, result, began)

    async def _edit(self, router: AsyncVideoRouter, parent: asyncio.Task[tuple[VideoResult, Card]], key: str) -> Card:
        original, _ = await asyncio.shield(parent)
        began = time.monotonic()
        result = await router.edit(original, EDIT.prompt, model=EDIT.model, idempotency_key=key)
        return await self._collect(router, EDIT, key, result, began, parent=VIDEOS[EDITED].prompt)

    async def _collect(
        self,
        router: AsyncVideoRouter,
        video: DemoVideo,
        key: str,
        result: VideoResult,
        began: float,
        *,
        parent: str | None = None,
    ) -> Card:
        from videorouter.cli.gallery import Card  # noqa: PLC0415
        from videorouter.cli.inspection import NotPlayableError, inspect_video  # noqa: PLC0415  needs the extra

        path = self._folder / join_words(f"{parent} {video.prompt}" if parent else video.prompt)
        self._board.state(key, "downloading")
        saved = await router.save(result, path, on_progress=partial(self._progress, key))
        elapsed = time.monotonic() - began
        self._board.state(key, "checking every frame")
        try:
            found = await asyncio.to_thread(inspect_video, saved.path)
        except NotPlayableError as error:
            self._board.end(key, clean(error), ok=False)
            msg = f"{error}. That is a defect of this package or of PyAV; `videorouter doctor` shows the versions."
            raise ConfigurationError(msg) from error
        words = f"{say_size(found.size)}, {found.frames} frames, {found.width} x {found.height}, plays {found.seconds:.1f} s"
        self._board.end(key, words, ok=True)
        return Card(
            file=path.name,
            prompt=video.prompt,
            model=video.model,
            video_id=result.video_id,
            found=found,
            elapsed=elapsed,
            task_id=result.task_id,
            cost=result.cost,
            parent=parent,
        )

    def _add_row(self, video: DemoVideo, words: str) -> str:
        key = str(uuid.uuid4())
        self._board.add(key, video.prompt)
        self._board.state(key, words)
        self._rows.add(key)
        return key

    def _follow(self, event: Event) -> None:
        words = say_event(event)
        if words and event.call_id in self._rows:
            self._board.state(event.call_id, words)

    def _progress(self, key: str, event: Event) -> None:
        if isinstance(event, DownloadProgressed):
            self._board.transfer(key, event.received, event.total)

    def _write_page(self, page: Path, cards: list[Card], elapsed: float) -> None:
        from videorouter.cli.gallery import write_page  # noqa: PLC0415

        page.write_text(write_page(cards, elapsed=elapsed, charged=len(cards)), "utf-8")

    def _tell(self, page: Path, cards: list[Card], elapsed: float) -> None:
        console = self._console
        if console.json:
            console.record(
                {
                    "gallery": str(page.resolve()),
                    "elapsed": round(elapsed, 3),
                    "videos": [_show(card, self._folder) for card in cards],
                }
            )
        else:
            for card in cards:
                console.data(str(self._folder / card.file))
            console.data(str(page))
        console.say(
            "\n"
            + console.style(
                f"{len(cards)} videos in {say_time(elapsed)}, each whole and playable, each charged once.", "bold"
            )
            + f"\n  gallery  {page.resolve().as_uri()}\n\n"
            + console.style("What to try next", "bold")
            + '\n  videorouter generate "Your own words" --sandbox -o mine.mp4'
            + "\n  videorouter sandbox      a gateway to build against, until Ctrl-C"
            + "\n  videorouter doctor       whether this machine is ready for the real gateway"
            + '\n  With a key in INFRON_API_KEY: videorouter generate "Your own words" -o mine.mp4 (this one costs money)'
        )
        if self._open:
            import webbrowser  # noqa: PLC0415

            webbrowser.open(page.resolve().as_uri())


def _show(card: Card, folder: Path) -> dict[str, Any]:
    found = card.found
    return {
        "prompt": card.prompt,
        "model": card.model,
        "path": str(folder / card.file),
        "video_id": card.video_id,
        "task_id": card.task_id,
        "cost": card.cost,
        "parent": card.parent,
        "size": found.size,
        "width": found.width,
        "height": found.height,
        "frames": found.frames,
        "seconds": found.seconds,
        "elapsed": round(card.elapsed, 3),
    }
