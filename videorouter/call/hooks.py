"""Calls the user's hooks and waits for them within bounds; a hook changes nothing.

A plain function is called, and that is all. A coroutine runs in a task of its own, so that neither a cancellation that
it raises nor one that it swallows is taken for the call's. What a hook raises is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from videorouter.logs import report
from videorouter.loops import UncancellableFuture, resolve_future, running_loop, start_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Hooks: TypeAlias = tuple[tuple[Callable[[Any], object] | None, object], ...]


async def call_hooks(hooks: Hooks, *, limit: float, wait: float | None = None, recording: bool = False) -> None:
    """Call each hook with its argument; a coroutine has ``limit`` seconds and is then given up.

    They are waited for at most ``wait`` seconds, by default all of them. Hooks that are ``recording`` what was bought
    are waited for even while the call is cancelled.
    """
    begun = [one for hook, argument in hooks if hook is not None and (one := _call(hook, argument, limit)) is not None]
    cancelled: BaseException | None = None
    for one in begun:
        try:
            await one.wait(limit if wait is None else wait, recording=recording)
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
            if not recording:
                break
    if cancelled is not None:
        raise cancelled


def _call(hook: Callable[[Any], object], argument: object, limit: float) -> _HookTask | _HookInTrio | None:
    try:
        outcome = hook(argument)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  a plain function is not cancelled: it is its own
        report(logging.ERROR, "a hook failed: %s", _name(argument), error=error)
        return None
    if not inspect.isawaitable(outcome):
        return None
    if running_loop() is None:
        return _HookInTrio(outcome, argument, limit)
    return _HookTask(outcome, argument, limit)


def _name(argument: object) -> str:
    """Name a hook's argument by its kind and id: prompts and URLs must not appear in logs."""
    names = ("call_id", "idempotency_key", "id")
    found = next((value for value in (getattr(argument, name, None) for name in names) if value), "")
    return f"{type(argument).__name__} {found}".rstrip()


class _HookTask:
    """A hook that runs in a task of its own."""

    __slots__ = ("_argument", "_ending", "_future", "_given_up", "_is_ours", "_limit", "_timer")

    def __init__(self, outcome: Awaitable[object], argument: object, limit: float) -> None:
        loop = asyncio.get_running_loop()
        self._argument = argument
        self._limit = limit
        self._given_up = False
        self._ending: asyncio.Future[None] | None = None
        self._is_ours = not isinstance(outcome, asyncio.Future)
        self._future: asyncio.Future[object] = (
            outcome if isinstance(outcome, asyncio.Future) else start_task(_await(outcome))
        )
        self._timer = loop.call_later(limit, self._give_up)
        _RUNNING.add(self)
        self._future.add_done_callback(self._note_end)

    async def wait(self, seconds: float, *, recording: bool) -> None:
        """Wait until the hook has ended, or so many seconds; after that it runs on alone until its limit."""
        loop = asyncio.get_running_loop()
        if self._future.done():
            return
        self._ending = UncancellableFuture(loop=loop) if recording else loop.create_future()
        timer = loop.call_later(seconds, resolve_future, self._ending)
        try:
            # anyio's cancellation comes again and again: its shield keeps it off. The future keeps asyncio's own off.
            with anyio.CancelScope(shield=recording):
                await self._ending
        except asyncio.CancelledError:
            if not recording:
                self._cancel()
            raise
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        report(logging.ERROR, "a hook was given up after %g s: %s", self._limit, _name(self._argument))
        self._cancel()

    def _cancel(self) -> None:
        self._given_up = True
        if self._is_ours:
            self._future.cancel()
        if self._ending is not None:
            resolve_future(self._ending)

    def _note_end(self, future: asyncio.Future[object]) -> None:
        self._timer.cancel()
        _RUNNING.discard(self)
        if future.cancelled():
            if not self._given_up:
                report(logging.ERROR, "a hook was cancelled, and not by its call: %s", _name(self._argument))
        elif (error := future.exception()) is not None:
            report(logging.ERROR, "a hook failed: %s", _name(self._argument), error=error)
        if self._ending is not None:
            resolve_future(self._ending)


async def _await(outcome: Awaitable[object]) -> object:
    return await outcome


class _HookInTrio:
    """A hook under trio, where a task of its own would need a nursery: it runs in the call's."""

    __slots__ = ("_argument", "_limit", "_outcome")

    def __init__(self, outcome: Awaitable[object], argument: object, limit: float) -> None:
        self._outcome = outcome
        self._argument = argument
        self._limit = limit

    async def wait(self, seconds: float, *, recording: bool) -> None:
        """Wait until the hook has ended, or so many seconds."""
        seconds = min(seconds, self._limit)
        with anyio.move_on_after(max(0.0, seconds), shield=recording) as scope:
            try:
                await self._outcome
            except Exception as error:  # noqa: BLE001  a hook changes nothing
                report(logging.ERROR, "a hook failed: %s", _name(self._argument), error=error)
        if scope.cancelled_caught:
            report(logging.ERROR, "a hook was given up after %g s: %s", seconds, _name(self._argument))


_RUNNING: set[_HookTask] = set()
"""Kept here, since a loop keeps no task alive."""
