"""``VideoRouter``: the verbs of ``AsyncVideoRouter`` without ``await``, through one portal.

No logic lives here. Each verb is a stub that borrows the parameters of the async verb of its name, at run time and for
type checkers; what it does, the async verb does.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from videorouter.client import AsyncVideoRouter
from videorouter.io.portal import Portal
from videorouter.rules.signatures import dress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from videorouter.errors import VideoRouterError
    from videorouter.flows.downloads import ManyOptions, Place, SaveOptions, Source
    from videorouter.io.portal import Session
    from videorouter.models import Asset, Balance, Download, InDoubt, Model, Task, TaskStatus, VideoResult

P = ParamSpec("P")
R = TypeVar("R")


def _waits_for(
    verb: Callable[Concatenate[AsyncVideoRouter, P], Coroutine[Any, Any, R]],
) -> Callable[[Callable[[VideoRouter], R]], Callable[Concatenate[VideoRouter, P], R]]:
    """Make a stub call ``verb`` on the portal's loop, with its parameters."""

    def lend(stub: Callable[[VideoRouter], R]) -> Callable[Concatenate[VideoRouter, P], R]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return self._portal.call(lambda client: verb(client, *args, **kwargs))

        return _dress(call, stub, verb)

    return lend


def _opens(
    verb: Callable[Concatenate[AsyncVideoRouter, P], AbstractAsyncContextManager[AsyncIterator[R]]],
) -> Callable[
    [Callable[[VideoRouter], AbstractContextManager[Iterator[R]]]],
    Callable[Concatenate[VideoRouter, P], AbstractContextManager[Iterator[R]]],
]:
    """Make a stub enter, iterate and leave what ``verb`` gives, all in one task of the portal's loop."""

    def lend(
        stub: Callable[[VideoRouter], AbstractContextManager[Iterator[R]]],
    ) -> Callable[Concatenate[VideoRouter, P], AbstractContextManager[Iterator[R]]]:
        @contextmanager
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Iterator[R]]:
            session = self._portal.open_session()
            entered = verb(self._portal.client, *args, **kwargs)
            leave: Callable[[], Awaitable[object]] | None = None
            try:
                items = session.call(entered.__aenter__)
                leave = partial(entered.__aexit__, None, None, None)
                yield _walk(session, items)
            finally:
                session.close(leave)

        return _dress(call, stub, verb)

    return lend


def _walk(session: Session, items: AsyncIterator[R]) -> Iterator[R]:
    async def step() -> tuple[R] | None:
        async for item in items:
            return (item,)
        return None

    while (item := session.call(step)) is not None:
        yield item[0]


def _dress(call: Callable[P, R], stub: Callable[..., Any], verb: Callable[..., Any]) -> Callable[P, R]:
    functools.update_wrapper(call, stub)
    dress(call, verb, returns=inspect.signature(stub).return_annotation)
    call.__doc__ = (verb.__doc__ or "").replace("await ", "") or stub.__doc__
    return call


def _makes(
    client: Callable[P, AsyncVideoRouter],
) -> Callable[
    [Callable[[VideoRouter, Callable[[], AsyncVideoRouter]], None]], Callable[Concatenate[VideoRouter, P], None]
]:
    """Give ``__init__`` the async client's parameters. The key stays inside a closure, which shows nothing."""

    def lend(
        stub: Callable[[VideoRouter, Callable[[], AsyncVideoRouter]], None],
    ) -> Callable[Concatenate[VideoRouter, P], None]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> None:
            stub(self, lambda: client(*args, **kwargs))

        return _dress(call, stub, AsyncVideoRouter.__init__)

    return lend


class VideoRouter:
    """The client of the Infron video gateway for code without ``await``: scripts, notebooks, threads.

    Takes what ``AsyncVideoRouter`` takes. Each call blocks the thread that makes it and no other; any number of
    threads may share one client. Hooks run on the client's own thread.

    Raises:
        ConfigurationError: Something cannot be used; the message says what and how to mend it.
    """

    _portal: Portal[AsyncVideoRouter]

    @_makes(AsyncVideoRouter)
    def __init__(self, make: Callable[[], AsyncVideoRouter]) -> None:
        self._portal = Portal(make)

    @_waits_for(AsyncVideoRouter.generate)
    def generate(self) -> VideoResult:
        """As ``AsyncVideoRouter.generate``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.edit)
    def edit(self) -> VideoResult:
        """As ``AsyncVideoRouter.edit``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.submit)
    def submit(self) -> Task:
        """As ``AsyncVideoRouter.submit``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.submit_edit)
    def submit_edit(self) -> Task:
        """As ``AsyncVideoRouter.submit_edit``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.task)
    def task(self) -> TaskStatus:
        """As ``AsyncVideoRouter.task``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.wait)
    def wait(self) -> VideoResult:
        """As ``AsyncVideoRouter.wait``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.models)
    def models(self) -> tuple[Model, ...]:
        """As ``AsyncVideoRouter.models``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.balance)
    def balance(self) -> Balance:
        """As ``AsyncVideoRouter.balance``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.upload)
    def upload(self) -> Asset:
        """As ``AsyncVideoRouter.upload``."""
        raise NotImplementedError

    @_waits_for(AsyncVideoRouter.save)
    def save(self) -> Download:
        """As ``AsyncVideoRouter.save``."""
        raise NotImplementedError

    @overload
    def download(
        self, source: Iterable[Source], dest: Place, *, return_exceptions: Literal[True], **options: Unpack[ManyOptions]
    ) -> list[Download | VideoRouterError]: ...

    @overload
    def download(  # type: ignore[overload-overlap]  # a str is an iterable of str, and means one URL
        self, source: Source, dest: Place, **options: Unpack[ManyOptions]
    ) -> Download: ...

    @overload
    def download(self, source: Iterable[Source], dest: Place, **options: Unpack[ManyOptions]) -> list[Download]: ...

    def download(
        self,
        source: Source | Iterable[Source],
        dest: Place,
        *,
        concurrency: int = 16,
        return_exceptions: bool = False,
        **options: Unpack[SaveOptions],
    ) -> Download | list[Download] | list[Download | VideoRouterError]:
        """As ``AsyncVideoRouter.download``."""
        named: dict[str, Any] = {"concurrency": concurrency, "return_exceptions": return_exceptions, **options}
        found: Download | list[Download] = self._portal.call(lambda client: client.download(source, dest, **named))
        return found

    download.__doc__ = (AsyncVideoRouter.download.__doc__ or "").replace("await ", "")

    @_opens(AsyncVideoRouter.stream)
    def stream(self) -> AbstractContextManager[Iterator[bytes]]:
        """As ``AsyncVideoRouter.stream``."""
        raise NotImplementedError

    @property
    def in_doubt(self) -> tuple[InDoubt, ...]:
        """Requests of this client that may have been billed and whose answer nobody has."""
        return self._portal.client.in_doubt

    def close(self) -> None:
        """Close what is open. Idempotent; a client that you brought stays open."""
        self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
