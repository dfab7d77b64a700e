"""``Sandbox``: a pretend gateway inside a running event loop, or in a thread of its own, from its start to a clean end.

It opens two ports on loopback and closes them again, however many requests are held at that moment. It never starts by
itself, and never touches the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Self, TypeVar, Unpack, cast

from aiohttp import web

from videorouter.sandbox import control
from videorouter.sandbox.delivery import Holds
from videorouter.sandbox.door import Door
from videorouter.sandbox.faults import Faults
from videorouter.sandbox.files import Files
from videorouter.sandbox.front import Front
from videorouter.sandbox.gateway import Gateway
from videorouter.sandbox.records import RequestLog, RequestRecord
from videorouter.sandbox.settings import Options, Settings
from videorouter.sandbox.store import Charge, Store
from videorouter.sandbox.studio import Studio

_BACKLOG = 4096
_PATIENCE = 2.0
_THREAD_PATIENCE = 30.0

T = TypeVar("T")


class Sandbox:
    """A pretend gateway in this process.

    Example::

        async with Sandbox(mode="task") as sandbox:
            print(sandbox.base_url)

    Args:
        options: See ``Settings``, whose fields they are.

    Attributes:
        settings: The options.
        faults: The rules of what goes wrong; they may be changed at any time, from any thread.

    Raises:
        ValueError: An option makes no sense.
        TypeError: There is no such option.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self.settings: Settings = Settings(**options)
        self.faults: Faults = Faults(self.settings.seed)
        self._log = RequestLog(self.settings.log_limit)
        self._running: _Servers | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the ports.

        Raises:
            RuntimeError: It runs already.
            OSError: A port is taken.
            ValueError: The state file cannot be used.
        """
        if self._running is not None:
            raise RuntimeError("This sandbox runs already: stop it first, or make another one.")
        running = _Servers(self.settings, self.faults, self._log)
        try:
            await running.open()
        except BaseException:
            await running.close()
            raise
        self._running = running

    async def stop(self) -> None:
        """Close the ports, break what is held, and free everything; twice does no harm."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    def in_thread(self) -> ThreadedSandbox:
        """Return the same sandbox for programs without an event loop: a context manager that runs it in a thread."""
        return ThreadedSandbox(self)

    @property
    def url(self) -> str:
        """Origin of the API and address of the gallery."""
        return self._need().url

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL; it ends in ``/v1``."""
        return self._need().gateway.base_url

    @property
    def files_url(self) -> str:
        """Origin of the result files, which need no key."""
        return self._need().gateway.files_url

    @property
    def requests(self) -> list[RequestRecord]:
        """The last requests, oldest first, secrets removed; an open one has no ``elapsed`` yet."""
        return self._log.list()

    @property
    def held(self) -> int:
        """How many POSTs wait for their video at this moment."""
        return len(self._need().gateway.jobs)

    async def charges(self) -> dict[str, int]:
        """Return how often each prompt was charged."""
        return self._need().store.count_charges()

    async def charge_list(self) -> list[Charge]:
        """Return every charge, oldest first."""
        return self._need().store.charges()

    async def jobs(self) -> list[Mapping[str, object]]:
        """Return the newest jobs, newest first, as the gallery shows them."""
        return list(control.list_jobs(self._need().gateway))

    async def release(self) -> int:
        """Make every unfinished job ready now and return how many there were."""
        return self._need().gateway.release()

    async def reset(self) -> None:
        """Forget jobs, charges, uploads, requests and faults, and break what is held."""
        control.reset(self._need().gateway)

    async def wait_until(self, condition: Callable[[Sandbox], bool], *, timeout: float = 30.0) -> None:
        """Return as soon as a condition holds; it is looked at whenever a request begins, is read, is held or ends.

        Args:
            condition: Called with the sandbox: ``lambda sandbox: sandbox.held == 3``.
            timeout: Seconds after which it is given up.

        Raises:
            TimeoutError: It did not hold in time.
        """
        self._need()
        async with asyncio.timeout(timeout):
            await self._log.wait_for(lambda: condition(self))

    def _need(self) -> _Servers:
        if self._running is None:
            raise RuntimeError("The sandbox does not run: enter it with 'async with', or await its start().")
        return self._running


class ThreadedSandbox:
    """Runs a sandbox in a thread of its own, for programs without an event loop.

    Every method may be called from any thread; none of them needs ``await``.

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
        thread.join(_THREAD_PATIENCE)

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
        return asyncio.run_coroutine_threadsafe(make(), loop).result(_THREAD_PATIENCE)

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


class _Servers:
    def __init__(self, settings: Settings, faults: Faults, log: RequestLog) -> None:
        self._settings = settings
        self._faults = faults
        self._log = log
        start = 1000.0 if settings.balance is None else settings.balance
        self.store = Store(settings.state, start)
        self.holds = Holds()
        self.gateway = Gateway(settings, self.store, faults, log, self.holds)
        self.studio = Studio(settings, self.store)
        self.url = ""
        self._ports: list[asyncio.Server] = []
        self._servers: list[web.Server] = []
        self._doors: list[Door] = []

    async def open(self) -> None:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        front = Front(self.gateway, Files(self.gateway, self.studio), self.studio)
        files_port = await self._listen(front.handle_files, "files_port", self._settings.files_port, "files")
        self.gateway.files_url = self.studio.files_url = f"http://{host}:{files_port}"
        port = await self._listen(front.handle_api, "port", self._settings.port, "api")
        self.url = f"http://{host}:{port}"
        self.gateway.base_url = f"{self.url}/v1"

    async def _listen(self, handler: Callable[..., object], name: str, port: int, side: str) -> int:
        loop = asyncio.get_running_loop()
        server = web.Server(handler, handler_cancellation=True, access_log=None, tcp_keepalive=False)  # type: ignore[arg-type]
        self._servers.append(server)
        door = Door(cast("Callable[[], asyncio.Protocol]", server), self._faults, self._log, side)
        self._doors.append(door)
        # A state file remembers its ports, so that the URLs it gave away stay good over a restart.
        choices = [port] if port else [int(self.store.get(name) or 0), 0]
        for choice in choices:
            try:
                opened = await loop.create_server(door, self._settings.host, choice, backlog=_BACKLOG)
            except OSError:
                if choice == choices[-1]:
                    raise
                continue
            self._ports.append(opened)
            found = int(opened.sockets[0].getsockname()[1])
            self.store.put(name, found)
            return found
        raise AssertionError("unreachable")

    async def close(self) -> None:
        for port in self._ports:
            port.close()
        self.holds.stop()
        self.gateway.jobs.stop()
        for door in self._doors:
            door.close()
        self.studio.close()
        for server in self._servers:
            server.pre_shutdown()
        # Handlers that were woken end by themselves within a few turns; shutting down cancels the others.
        for _ in range(5):
            await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(server.shutdown(0.1) for server in self._servers)), _PATIENCE)
        self.store.close()
