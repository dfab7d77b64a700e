"""``videorouter generate`` and ``videorouter edit``: prompts in, videos out."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videorouter.cli.console import Console
from videorouter.cli.destination import Destination
from videorouter.cli.driver import drive
from videorouter.cli.jobs import CommandJob, CommandJobs
from videorouter.cli.progress import make_board
from videorouter.cli.prompts import read_prompts
from videorouter.cli.reporting import shorten
from videorouter.cli.session import open_router, wants_sandbox

if TYPE_CHECKING:
    import argparse

    from videorouter.client import AsyncVideoRouter

MODELS = {"generate": "veo3-fast", "edit": "sora-2-video-to-video"}
"""The models of the vendor's quickstart; ``--model`` names any other."""

_NAMED = ("duration", "aspect_ratio", "resolution", "seed", "n", "generate_audio")


def run(args: argparse.Namespace) -> int:
    """Make the videos that the arguments ask for."""
    console = Console.of(args)
    return drive(lambda: _make(args, console), args, console)


async def _make(args: argparse.Namespace, console: Console) -> int:
    prompts = read_prompts(args)
    destination = Destination(args.output, count=len(prompts))
    model = args.model or MODELS[args.command]
    jobs = CommandJobs(
        (
            CommandJob(
                index=index, key=str(uuid.uuid4()), label=shorten(prompt), name=prompt, prompt=prompt, model=model
            )
            for index, prompt in enumerate(prompts)
        ),
        args,
        console,
        make_board(console, labelled=len(prompts) > 1),
        destination,
    )
    async with open_router(args, console, on_event=jobs.follow) as router:
        if args.model is None:
            console.say(console.style(f"model {model}; --model names another", "dim"))
        fields = read_fields(args)

        async def make_and_save(job: CommandJob) -> None:
            await _make_one(router, job, args, fields)
            await jobs.save(router, job)

        code = await jobs.run(router, make_and_save)
    if wants_sandbox(args) and not destination.wanted and not args.sandbox_state and not args.no_wait:
        console.say("The sandbox is gone, and its videos with it: keep them with -o otter.mp4.")
    return code


async def _make_one(
    router: AsyncVideoRouter, job: CommandJob, args: argparse.Namespace, fields: dict[str, Any]
) -> None:
    options = {"model": job.model, "idempotency_key": job.key, **fields}
    prompt = job.prompt or ""
    if args.no_wait:
        if args.command == "edit":
            task = await router.submit_edit(args.video, prompt, **options)
        else:
            task = await router.submit(prompt, **options)
        job.task_id, job.result = task.id or job.task_id, task.result
    elif args.command == "edit":
        job.result = await router.edit(args.video, prompt, **options)
    else:
        job.result = await router.generate(prompt, **options)


def read_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that the arguments name."""
    fields = {name: value for name in _NAMED if (value := getattr(args, name)) is not None}
    if args.image is not None:
        fields["image_url"] = args.image if "://" in args.image else Path(args.image)
    if args.field:
        fields["extra_body"] = dict(args.field)
    return fields
