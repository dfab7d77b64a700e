"""``VideoRouter``: the verbs of ``AsyncVideoRouter`` without ``await``, through one portal.

No logic lives here. Each verb is a stub that borrows the parameters of the async verb of its name, at run time and for
type checkers; what it does, the async verb does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, Self, TypeVar, Unpack, overload

from videorouter.client import AsyncVideoRouter
from videorouter.config import refuse_pickling
from videorouter.downloads.download import Place, Source
from videorouter.downloads.save import ManyOptions
from videorouter.errors import VideoRouterError
from videorouter.models import (
    Asset,
    Balance,
    BatchItem,
    BatchSummary,
    Download,
    DrainReport,
    InDoubt,
    Model,
    Stats,
    Task,
    TaskStatus,
    VideoResult,
)
from videorouter.portal import Portal
from videorouter.signatures import LazyModule, dress_without_await

if TYPE_CHECKING:
    import httpx

    from videorouter.batch import batch
    from videorouter.jobs import jobs, sync as queues
else:
    batch = LazyModule("videorouter.batch.batch")
    httpx = LazyModule("httpx")
    jobs = LazyModule("videorouter.jobs.jobs")
    queues = LazyModule("videorouter.jobs.sync")

P = ParamSpec("P")
R = TypeVar("R")
Bought = TypeVar("Bought", bound="VideoResult | Task")


def _waits_for(
    verb: Callable[Concatenate[AsyncVideoRouter, P], Coroutine[Any, Any, R]],
) -> Callable[[Callable[[VideoRouter], R]], Callable[Concatenate[VideoRouter, P], R]]:
    """Make a stub call ``verb`` on the portal's loop, with its parameters."""

    def lend(stub: Callable[[VideoRouter], R]) -> Callable[Concatenate[VideoRouter, P], R]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return self._portal.call(lambda client: verb(client, *args, **kwargs))

        return dress_without_await(call, stub, verb)

    return lend


def _buys(
    verb: Callable[Concatenate[AsyncVideoRouter, P], Coroutine[Any, Any, Bought]],
) -> Callable[[Callable[[VideoRouter], Bought]], Callable[Concatenate[VideoRouter, P], Bought]]:
    """As ``_waits_for``, for a verb that pays: what Ctrl-C keeps from its caller stands in ``in_doubt``."""
    name = "edit" if "edit" in verb.__name__ else "generate"

    def keep(client: AsyncVideoRouter, answer: Bought) -> Callable[[], Awaitable[None]]:
        return client._caller.record_undelivered(answer, name)  # noqa: SLF001  no user calls that

    def lend(stub: Callable[[VideoRouter], Bought]) -> Callable[Concatenate[VideoRouter, P], Bought]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> Bought:
            return self._portal.call(lambda client: verb(client, *args, **kwargs), keep=keep)

        return dress_without_await(call, stub, verb)

    return lend


def _waits(verb: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """As ``_waits_for``, for a verb whose overloads stand above the stub."""

    def lend(stub: Callable[..., R]) -> Callable[..., R]:
        def call(self: VideoRouter, /, *args: object, **kwargs: object) -> R:
            value: R = self._portal.call(lambda client: verb(client, *args, **kwargs))
            return value

        return dress_without_await(call, stub, verb)

    return lend


def _holds(
    verb: Callable[Concatenate[AsyncVideoRouter, P], AbstractAsyncContextManager[AsyncIterator[R]]],
) -> Callable[
    [Callable[[VideoRouter], AbstractContextManager[Iterator[R]]]],
    Callable[Concatenate[VideoRouter, P], AbstractContextManager[Iterator[R]]],
]:
    """Make a stub give ``verb``'s context manager and its iterator without ``async``."""

    def lend(
        stub: Callable[[VideoRouter], AbstractContextManager[Iterator[R]]],
    ) -> Callable[Concatenate[VideoRouter, P], AbstractContextManager[Iterator[R]]]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[Iterator[R]]:
            return self._portal.wrap_context_manager(lambda client: verb(client, *args, **kwargs))

        return dress_without_await(call, stub, verb)

    return lend


def _streams(
    verb: Callable[Concatenate[AsyncVideoRouter, P], batch.Batch],
) -> Callable[[Callable[[VideoRouter], SyncBatch]], Callable[Concatenate[VideoRouter, P], SyncBatch]]:
    """Make a stub give ``verb``'s batch without ``async``."""

    def lend(stub: Callable[[VideoRouter], SyncBatch]) -> Callable[Concatenate[VideoRouter, P], SyncBatch]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> SyncBatch:
            return SyncBatch(self._portal, verb(self._portal.client, *args, **kwargs))

        return dress_without_await(call, stub, verb)

    return lend


def _queues(
    verb: Callable[Concatenate[AsyncVideoRouter, P], jobs.Jobs],
) -> Callable[
    [Callable[[VideoRouter], queues.SyncJobs[AsyncVideoRouter]]],
    Callable[Concatenate[VideoRouter, P], queues.SyncJobs[AsyncVideoRouter]],
]:
    """Make a stub give ``verb``'s queue without ``async``."""

    def lend(
        stub: Callable[[VideoRouter], queues.SyncJobs[AsyncVideoRouter]],
    ) -> Callable[Concatenate[VideoRouter, P], queues.SyncJobs[AsyncVideoRouter]]:
        def call(self: VideoRouter, /, *args: P.args, **kwargs: P.kwargs) -> queues.SyncJobs[AsyncVideoRouter]:
            return queues.SyncJobs(self._portal, lambda client: verb(client, *args, **kwargs))

        return dress_without_await(call, stub, verb)

    return lend


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

        return dress_without_await(call, stub, AsyncVideoRouter.__init__)

    return lend


async def _do_nothing() -> None:
    pass


def _keep_item(client: AsyncVideoRouter, item: BatchItem) -> Callable[[], Awaitable[None]]:
    """The video of an item that Ctrl-C keeps from the loop over a batch stays reachable."""
    if item.result is None:
        return _do_nothing
    return client._caller.record_undelivered(item.result, "generate")  # noqa: SLF001  no user calls that


class SyncBatch:
    """A batch that runs while it is iterated: ``for item in batch``.

    Leaving the loop early closes it. Inside ``with batch`` it lives until the block's end.
    """

    def __init__(self, portal: Portal[AsyncVideoRouter], batch: batch.Batch) -> None:
        self._portal = portal
        self._batch = batch
        self._kept_open = False

    @property
    def summary(self) -> BatchSummary:
        """How the batch stands: one count per state of what this run has met, and what that cost."""
        return self._batch.summary

    @property
    def in_flight(self) -> int:
        """Requests that run now."""
        return self._batch.in_flight

    @property
    def paused(self) -> str:
        """Why the batch waits, in words: many outcomes in doubt in a row, or no gateway. Empty while it goes on."""
        return self._batch.paused

    def stop(self, reason: str = "stopped by the caller") -> None:
        """Send nothing more; what runs comes to its end, and the loop ends after the last of it."""

        async def stop() -> None:
            self._batch.stop(reason)

        self._portal.call(lambda _: stop())

    def close(self) -> None:
        """Stop at once: cancel what runs, write down what is known of it, close the journal. Idempotent."""
        self._portal.clean_up(lambda _: self._batch.aclose())

    def __iter__(self) -> Iterator[BatchItem]:
        try:
            while True:
                try:
                    item = self._portal.call(lambda _: self._batch.__anext__(), keep=_keep_item)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if not self._kept_open:
                self.close()

    def __enter__(self) -> Self:
        self._kept_open = True
        self._portal.call(lambda _: self._batch.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class VideoRouter:
    """The client of the Infron video gateway for code without ``await``: scripts, notebooks, threads.

    Takes what ``AsyncVideoRouter`` takes. Each call blocks the thread that makes it and no other; any number of
    threads may share one client. Hooks run on the client's own thread.

    Raises:
        ConfigurationError: Something cannot be used; the message says what, and how to fix it.
    """

    _portal: Portal[AsyncVideoRouter]
    _is_view: bool = False

    @_makes(AsyncVideoRouter)
    def __init__(self, make: Callable[[], AsyncVideoRouter]) -> None:
        self._portal = Portal(make)

    @_buys(AsyncVideoRouter.generate)
    def generate(self) -> VideoResult:
        """As ``AsyncVideoRouter.generate``."""
        raise NotImplementedError

    @_buys(AsyncVideoRouter.edit)
    def edit(self) -> VideoResult:
        """As ``AsyncVideoRouter.edit``."""
        raise NotImplementedError

    @_buys(AsyncVideoRouter.submit)
    def submit(self) -> Task:
        """As ``AsyncVideoRouter.submit``."""
        raise NotImplementedError

    @_buys(AsyncVideoRouter.submit_edit)
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

    @_streams(AsyncVideoRouter.generate_many)
    def generate_many(self) -> SyncBatch:
        """As ``AsyncVideoRouter.generate_many``."""
        raise NotImplementedError

    @_streams(AsyncVideoRouter.edit_many)
    def edit_many(self) -> SyncBatch:
        """As ``AsyncVideoRouter.edit_many``."""
        raise NotImplementedError

    @_queues(AsyncVideoRouter.jobs)
    def jobs(self) -> queues.SyncJobs[AsyncVideoRouter]:
        """As ``AsyncVideoRouter.jobs``."""
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

    @_waits(AsyncVideoRouter.download)
    def download(
        self,
    ) -> Download | list[Download] | list[Download | VideoRouterError]:
        """As ``AsyncVideoRouter.download``."""
        raise NotImplementedError

    @_holds(AsyncVideoRouter.stream)
    def stream(self) -> AbstractContextManager[Iterator[bytes]]:
        """As ``AsyncVideoRouter.stream``: ``with router.stream(video) as chunks: for chunk in chunks``."""
        raise NotImplementedError

    def with_options(self, **overrides: Any) -> VideoRouter:
        """As ``AsyncVideoRouter.with_options``."""
        view = object.__new__(type(self))
        view._portal = self._portal.derive(lambda client: client.with_options(**overrides))
        view._is_view = True
        return view

    def stats(self) -> Stats:
        """As ``AsyncVideoRouter.stats``."""
        return self._portal.client.stats()

    @_waits_for(AsyncVideoRouter.drain)
    def drain(self) -> DrainReport:
        """As ``AsyncVideoRouter.drain``."""
        raise NotImplementedError

    @property
    def http_client(self) -> httpx.AsyncClient:
        """As ``AsyncVideoRouter.http_client``: set hooks, auth and headers on it, and let it send nothing yourself.

        It belongs to the event loop of the client's own thread: hooks and auth flows run there, and are coroutine
        functions as ``httpx.AsyncClient`` wants them.
        """
        return self._portal.client.http_client

    @property
    def in_doubt(self) -> tuple[InDoubt, ...]:
        """Requests of this client that may have been billed and whose answer nobody has."""
        return self._portal.client.in_doubt

    def close(self) -> None:
        """Close what is open. Idempotent; a client that you brought stays open, and so does what a view shares."""
        if not self._is_view:
            self._portal.clean_up(AsyncVideoRouter._close_queues)  # noqa: SLF001  with the time that they need
            self._portal.close()

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
