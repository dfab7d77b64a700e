"""``videorouter wait`` and ``videorouter download``: what is paid already, into files. Nothing here ever pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from videorouter.call.requests import keep_request
from videorouter.cli.console import Console
from videorouter.cli.destination import Destination, name_of_url
from videorouter.cli.driver import drive
from videorouter.cli.jobs import CommandJob, CommandJobs
from videorouter.cli.progress import make_board
from videorouter.cli.prompts import read_words
from videorouter.cli.reporting import shorten
from videorouter.cli.session import open_router
from videorouter.models import Video, VideoResult

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Collect the tasks, or save the URLs, that the arguments name."""
    console = Console.of(args)
    work = _wait if args.command == "wait" else _download
    return drive(lambda: work(args, console), args, console)


async def _wait(args: argparse.Namespace, console: Console) -> int:
    ids = list(dict.fromkeys(read_words(args.tasks, "task id")))
    destination = Destination(args.output, count=len(ids))
    listed = (
        CommandJob(index=index, key=task_id, label=shorten(task_id), name=task_id, task_id=task_id)
        for index, task_id in enumerate(ids)
    )
    jobs = CommandJobs(listed, args, console, make_board(console, labelled=len(ids) > 1), destination)
    async with open_router(args, console, on_event=jobs.follow) as router:

        async def collect(job: CommandJob) -> None:
            job.result = await router.wait(job.key)
            _note_asked(job, args)
            await jobs.save(router, job)

        return await jobs.run(router, collect)


async def _download(args: argparse.Namespace, console: Console) -> int:
    urls = read_words(args.urls, "URL")
    destination = Destination(args.output or "./", count=len(urls))
    listed = (
        CommandJob(index=index, key=f"{index} {url}", label=shorten(url), name=name_of_url(url), url=url)
        for index, url in enumerate(urls)
    )
    jobs = CommandJobs(listed, args, console, make_board(console, labelled=len(urls) > 1), destination)
    async with open_router(args, console, on_event=jobs.follow) as router:

        async def fetch(job: CommandJob) -> None:
            job.result = VideoResult(videos=(Video(url=job.url),))
            _note_asked(job, args)
            await jobs.save(router, job)

        return await jobs.run(router, fetch)


def _note_asked(job: CommandJob, args: argparse.Namespace) -> None:
    """Let what came be compared with what the arguments say was asked for."""
    if args.asked and job.result is not None:
        keep_request(job.result, msgspec.json.encode(dict(args.asked)))
