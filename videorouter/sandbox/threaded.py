"""A sandbox in a thread of its own, for programs and tests without an event loop.

Every method may be called from any thread; none of them needs ``await``.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from videorouter.sandbox.faults import Faults
    from videorouter.sandbox.host import Sandbox
    from videorouter.sandbox.records import RequestRecord
    from videorouter.sandbox.store import Charge

T = TypeVar("T")
_PATIENCE = 30.0


class ThreadedSandbox:
    """Runs a sandbox in a thread.

    Args:
        sandbox: The sandbox, not running yet.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._trouble: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Open the ports.

        Raises:
            RuntimeError: It runs already.
            OSError: A port is taken.
            ValueError: The state file cannot be used.
        """
        if self._thread is not None:
            raise RuntimeError("This sandbox runs already: stop it first, or make another one.")
        ready = threading.Event()
        self._trouble = None
        self._thread = threading.Thread(target=self._run, args=(ready,), name="videorouter-sandbox", daemon=True)
        self._thread.start()
        ready.wait()
        self._raise_trouble()

    def _raise_trouble(self) -> None:
        if self._trouble is not None and self._thread is not None:
            self._thread.join()
            self._thread = None
            raise self._trouble

    def stop(self) -> None:
        """Close the ports and end the thread; twice does no harm."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(self._ended.set)
        thread.join(_PATIENCE)

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the start
            self._trouble = error
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._ended = asyncio.Event()
        async with self._sandbox:
            self._loop = asyncio.get_running_loop()
            ready.set()
            await self._ended.wait()

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = self._loop
        if loop is None:
            raise RuntimeError("The sandbox does not run: enter it with 'with', or call its start().")
        return asyncio.run_coroutine_threadsafe(make(), loop).result(_PATIENCE)

    @property
    def url(self) -> str:
        """Origin of the API and address of the gallery."""
        return self._sandbox.url

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL; it ends in ``/v1``."""
        return self._sandbox.base_url

    @property
    def files_url(self) -> str:
        """Origin of the result files, which need no key."""
        return self._sandbox.files_url

    @property
    def faults(self) -> Faults:
        """The rules of what goes wrong."""
        return self._sandbox.faults

    @property
    def requests(self) -> list[RequestRecord]:
        """The last requests, oldest first, secrets removed."""
        return self._call(self._list_requests)

    async def _list_requests(self) -> list[RequestRecord]:
        return self._sandbox.requests

    @property
    def held(self) -> int:
        """How many POSTs wait for their video at this moment."""
        return self._sandbox.held

    def charges(self) -> dict[str, int]:
        """Return how often each prompt was charged."""
        return self._call(self._sandbox.charges)

    def charge_list(self) -> list[Charge]:
        """Return every charge, oldest first."""
        return self._call(self._sandbox.charge_list)

    def jobs(self) -> list[Mapping[str, object]]:
        """Return the newest jobs, newest first, as the gallery shows them."""
        return self._call(self._sandbox.jobs)

    def release(self) -> int:
        """Make every unfinished job ready now and return how many there were."""
        return self._call(self._sandbox.release)

    def reset(self) -> None:
        """Forget jobs, charges, uploads, requests and faults, and break what is held."""
        self._call(self._sandbox.reset)

    def wait_until(self, condition: Callable[[Sandbox], bool], *, timeout: float = 25.0) -> None:
        """Return as soon as a condition holds.

        Args:
            condition: Called with the sandbox, in its thread: ``lambda sandbox: sandbox.held == 3``.
            timeout: Seconds after which it is given up, at most 25.

        Raises:
            TimeoutError: It did not hold in time.
        """
        self._call(lambda: self._sandbox.wait_until(condition, timeout=min(timeout, 25.0)))
