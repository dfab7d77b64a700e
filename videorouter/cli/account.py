"""``videorouter models`` and ``videorouter balance``: what the gateway offers, and what is left to spend."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from videorouter.cli.console import Console, clean, plain
from videorouter.cli.driver import drive
from videorouter.cli.session import open_router

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from videorouter.models import Model


def run(args: argparse.Namespace) -> int:
    """List the models, or print the balance."""
    console = Console.of(args)
    work = _models if args.command == "models" else _balance
    return drive(lambda: work(args, console), args, console)


async def _models(args: argparse.Namespace, console: Console) -> int:
    async with open_router(args, console) as router:
        models = await router.models(category=None if args.all else "video")
    if console.json:
        for model in models:
            console.record(plain(model))
    elif sys.stdout.isatty():
        _draw(models, console)
    else:
        for model in models:
            console.data(model.id)
    if not models:
        console.say("The gateway lists no video model; --all shows every model.")
    return 0


def _draw(models: Sequence[Model], console: Console) -> None:
    width = max((len(clean(model.id)) for model in models), default=0)
    room = max((len(clean(model.display_name or "")) for model in models), default=0)
    for model in models:
        price = "" if model.min_price is None else f"from ${model.min_price:.2f}"
        words = f"{clean(model.display_name or ''):<{room}}  {price:<12}{'deprecated' if model.deprecated else ''}"
        rest = console.style(words.rstrip(), "dim", stream=sys.stdout)
        sys.stdout.write(f"{clean(model.id):<{width}}  {rest}\n")


async def _balance(args: argparse.Namespace, console: Console) -> int:
    async with open_router(args, console) as router:
        balance = await router.balance()
    if console.json:
        console.record(plain(balance))
        return 0
    if balance.account_name:
        console.say(console.style(f"account {clean(balance.account_name)}", "dim"))
    console.data(f"{balance.credit_balance:.2f}")
    return 0
