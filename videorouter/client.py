"""``AsyncVideoRouter``: each public verb, its parameters and what they mean. What they do stands in the folders below."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

from msgspec import UNSET, UnsetType

from videorouter.call import tasks
from videorouter.call.caller import Caller
from videorouter.call.catalog import Catalog, read_account
from videorouter.call.fallback import check_models, run_with_fallback
from videorouter.call.prepare import RequestBuilder
from videorouter.call.requests import Submission, check_model, find_task_id
from videorouter.call.state import Shared
from videorouter.call.uploads import Uploads
from videorouter.config import (
    OPTIONS,
    ClientSettings,
    Idempotency,
    Timeout,
    check_timeout,
    read_environment,
    refuse_pickling,
    resolve,
)
from videorouter.errors import ConfigurationError, InvalidRequestError, VideoRouterError
from videorouter.events import EventHook, InDoubtHook
from videorouter.http import HTTPClient
from videorouter.jobs.verbs import QueueVerbs
from videorouter.models import (
    Asset,
    Balance,
    DrainReport,
    InDoubt,
    Input,
    Model,
    Stats,
    Task,
    TaskStatus,
    Video,
    VideoResult,
)
from videorouter.plain import Number, URLObject, Whole
from videorouter.secrets import seal
from videorouter.signatures import LazyModule, runs, takes_what

if TYPE_CHECKING:
    import httpx

    from videorouter.transport import sender as senders
else:  # only a client that is made needs httpx: importing this package's names must not cost that
    httpx = LazyModule("httpx")
    senders = LazyModule("videorouter.transport.sender")


class AsyncVideoRouter(QueueVerbs):
    """The asyncio client of the Infron video gateway.

    Args:
        api_key: The key, or a (sync or async) callable that gives it. Default: ``INFRON_API_KEY``, then
            ``ONEROUTER_API_KEY``.
        base_url: The gateway. Default: ``INFRON_VIDEO_BASE_URL``, then the vendor's.
        auth_scheme: ``None`` sends the key bare, as the vendor's quickstart shows; ``"Bearer"`` puts that before it.
        model: The model of calls that name none.
        timeout: Seconds for one whole call, from queue to finished video; ``None`` means thirty days.
        max_retries: Retries where the retry table allows any; 0 turns all of it off.
        max_concurrency: Jobs at once; ``None`` means what the file-descriptor limit allows, at most 1,000.
        adaptive: Whether concurrency and rate follow the gateway's refusals.
        idempotency: ``"honoured"`` declares that the gateway replays a repeated ``Idempotency-Key``.
        refused_statuses: Statuses that, on this gateway, prove that nothing was accepted.
        failover_urls: Base URLs to try when no connection can be made to the first; nothing was sent then.
        media_base_url: Where uploads go.
        models_base_url: Where the catalogue and the balance are read.
        allow_insecure: Permit ``http://`` base URLs beyond loopback.
        allow_private_hosts: Permit downloads from private addresses.
        allowed_hosts: Permit downloads from these hosts only.
        max_download_bytes: The largest file to accept.
        user_agent: The agent string.
        default_headers: Header fields for every request.
        proxy: A proxy's URL.
        trust_env: Whether proxy variables count.
        ssl_context: The TLS context, which is asked to offer HTTP/1.1 only; default: the system's trust store.
        http_client: Your own ``AsyncClient`` of httpx or httpx2. It is never closed, and its timeouts are overridden per request.
        on_event: A plain or coroutine function that is handed every event.
        on_in_doubt: A plain or coroutine function that is handed every request whose outcome nobody knows.
        hook_timeout: Seconds that a coroutine hook may take. A call waits for it, but not past its own deadline; for one
            that is handed what was bought or is in doubt it waits in any case.

    Raises:
        ConfigurationError: Something cannot be used; the message says what, and how to fix it.
    """

    def _start(
        self,
        api_key: object = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        http_client: HTTPClient | None = None,
        on_event: EventHook | None = None,
        on_in_doubt: InDoubtHook | None = None,
        **options: Any,
    ) -> None:
        api_key = seal(api_key)  # no local of a frame that may raise holds the text
        self._options = {**options, "api_key": api_key}
        self._environ = read_environment(os.environ)
        self._is_view = False
        settings = resolve(self._options, self._environ)
        self._sender = sender = senders.open_sender(
            http_client=http_client,
            proxy=settings.proxy,
            trust_env=settings.trust_env,
            ssl_context=ssl_context,
            urls=(settings.base_url, settings.media_base_url, settings.models_base_url, *settings.failover_urls),
        )
        self._catalog = Catalog()
        self._uploads = Uploads()
        self._caller = Caller(settings, Shared(sender, settings), on_event=on_event, on_in_doubt=on_in_doubt)
        self._builder = RequestBuilder(self._caller, self._uploads)

    @runs(_start)
    def __init__(
        self,
        api_key: str | Callable[[], str | Awaitable[str]] | None = None,
        *,
        base_url: str | URLObject | None = None,
        auth_scheme: str | None = None,
        model: str | None = None,
        timeout: Number | None = 900.0,
        max_retries: Whole = 4,
        max_concurrency: Whole | None = None,
        adaptive: bool = True,
        idempotency: Idempotency = "unknown",
        refused_statuses: Iterable[int] = (),
        failover_urls: Iterable[str | URLObject] = (),
        media_base_url: str | URLObject | None = None,
        models_base_url: str | URLObject | None = None,
        allow_insecure: bool = False,
        allow_private_hosts: bool = False,
        allowed_hosts: Iterable[str] | None = None,
        max_download_bytes: int = 4 * 2**30,
        user_agent: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        http_client: HTTPClient | None = None,
        on_event: EventHook | None = None,
        on_in_doubt: InDoubtHook | None = None,
        hook_timeout: float | None = 5.0,
    ) -> None:
        raise NotImplementedError

    @property
    def _settings(self) -> ClientSettings:
        return self._caller.settings

    async def _generate(
        self,
        /,
        prompt: str,
        *,
        models: Sequence[str] | None = None,
        fallback_on_failure: bool = False,
        **options: Any,
    ) -> VideoResult:
        if models is None:
            return await tasks.run_job(self._caller, await self._builder.prepare("generate", prompt, options))
        if options.get("model") is not None:
            raise InvalidRequestError("Pass model= or models=, not both.")

        async def prepare(name: str, seconds: float) -> Submission:
            return await self._builder.prepare("generate", prompt, {**options, "model": name, "timeout": seconds})

        return await run_with_fallback(
            self._caller,
            prepare,
            check_models(models),
            timeout=self._find_timeout(options.get("timeout", UNSET)),
            after_failed_task=bool(fallback_on_failure),
        )

    @runs(_generate)
    async def generate(
        self,
        /,
        prompt: str,
        *,
        model: str | None = None,
        models: Sequence[str] | None = None,
        fallback_on_failure: bool = False,
        image_url: Input | None = None,
        start_image_url: Input | None = None,
        end_image_url: Input | None = None,
        image_urls: Sequence[Input] | None = None,
        video_urls: Sequence[Input] | None = None,
        audio_urls: Sequence[Input] | None = None,
        duration: str | Number | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        generate_audio: bool | None = None,
        seed: Whole | None = None,
        n: Whole | None = None,
        output_format: str = "url",
        timeout: Timeout = UNSET,
        max_retries: Whole | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> VideoResult:
        """Make a video and wait until it is finished.

        Args:
            prompt: What the video should show.
            model: The model id, untouched; default: the client's.
            models: Ids to try in order; the next one only when it is proven that nothing was charged.
            fallback_on_failure: Whether a failed task, which may have been billed, lets the next of ``models`` try.
            image_url: The first frame, for image-to-video models. This and the five below take a URL, a ``Path``,
                bytes, a binary file or an ``Asset``; what is no URL is uploaded first, once per content.
            start_image_url: The first frame, as Veo 3.1 calls it.
            end_image_url: The last frame.
            image_urls: Reference pictures.
            video_urls: Reference videos.
            audio_urls: Reference sounds.
            duration: As the model wants it: Veo 3.1 takes ``"8s"``, Seedance 2 ``"4"`` to ``"15"``.
            aspect_ratio: ``16:9``, ``9:16``, ...
            resolution: ``480p``, ``720p``, ``1080p``.
            generate_audio: Whether to make sound.
            seed: For repeatable results, where the model supports it.
            n: How many videos.
            output_format: ``url`` is the only documented value.
            timeout: Seconds for the whole call; default: the client's; ``None`` means thirty days.
            max_retries: Default: the client's.
            extra_headers: Header fields of this request.
            extra_body: Body fields of this request, which win over all others and are not checked.
            idempotency_key: Default: a fresh one.
            **fields: Any further field of the gateway, untouched. One edit away from an option above, it is refused.

        Returns:
            The finished result.

        Raises:
            InvalidRequestError: An argument cannot be used; nothing was sent.
            APIStatusError: The gateway refused; nothing was bought.
            APIConnectionError: No connection; nothing was sent.
            DeadlineExceededError: The deadline passed before anything was sent.
            OutcomeUnknownError: It may have been billed; it is never re-sent silently.
            TaskFailedError: The gateway says that the job failed.
            TaskPollError: The job is accepted, but its state cannot be read; collect it with ``wait(error)``.
            TaskTimeoutError: The job is accepted and still running; collect it with ``wait(error)``.
        """
        raise NotImplementedError

    async def _edit(self, /, video: VideoResult | Video | Task | str, prompt: str, **options: Any) -> VideoResult:
        return await tasks.run_job(self._caller, await self._builder.prepare("edit", prompt, options, video=video))

    @runs(_edit)
    async def edit(
        self,
        /,
        video: VideoResult | Video | Task | str,
        prompt: str,
        *,
        model: str | None = None,
        image_url: Input | None = None,
        start_image_url: Input | None = None,
        end_image_url: Input | None = None,
        image_urls: Sequence[Input] | None = None,
        video_urls: Sequence[Input] | None = None,
        audio_urls: Sequence[Input] | None = None,
        duration: str | Number | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        generate_audio: bool | None = None,
        seed: Whole | None = None,
        n: Whole | None = None,
        output_format: str = "url",
        timeout: Timeout = UNSET,
        max_retries: Whole | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> VideoResult:
        """Make a new video from an earlier one of the same model family, and wait until it is finished.

        Takes what ``generate`` takes for one model, after ``video``: the earlier result, video, finished task, or its
        ``video_id``.

        Returns:
            The finished result.

        Raises:
            VideoRouterError: As ``generate``.
        """
        raise NotImplementedError

    @takes_what(generate, without={"models", "fallback_on_failure"})
    async def submit(self, /, prompt: str, **options: Any) -> Task:
        """Start a video and return as soon as the gateway has accepted it.

        Takes what ``generate`` takes, for one model.

        Returns:
            The task. On a gateway that holds the request it is already finished, with ``id=None``.

        Raises:
            VideoRouterError: As ``generate``, without the task errors.
        """
        return await tasks.run_job(self._caller, await self._builder.prepare("generate", prompt, options), wait=False)

    @takes_what(edit)
    async def submit_edit(self, /, video: VideoResult | Video | Task | str, prompt: str, **options: Any) -> Task:
        """Start an edit and return as soon as the gateway has accepted it. Takes what ``edit`` takes.

        Raises:
            VideoRouterError: As ``edit``, without the task errors.
        """
        return await tasks.run_job(
            self._caller, await self._builder.prepare("edit", prompt, options, video=video), wait=False
        )

    async def task(self, task: Task | str | VideoRouterError | InDoubt) -> TaskStatus:
        """Look at a task once.

        Raises:
            VideoRouterError: The state cannot be read.
        """
        deadline = time.monotonic() + self._settings.timeout
        return await tasks.look_at_task(self._caller, _as_task(task), deadline=deadline)

    async def wait(self, task: Task | str | VideoRouterError | InDoubt, *, timeout: Timeout = UNSET) -> VideoResult:
        """Wait for an accepted task and collect its result. It never pays.

        Args:
            task: The task, its id, or the error or record in doubt that names it, from this process or another.
            timeout: Seconds; default: the client's; ``None`` means thirty days.

        Raises:
            TaskFailedError: The gateway says that it failed.
            TaskPollError: Its state cannot be read.
            TaskTimeoutError: It is still running.
        """
        known = _as_task(task)
        if known.result is not None:
            return known.result
        seconds = self._find_timeout(timeout)
        return await tasks.wait_for_task(self._caller, known, deadline=time.monotonic() + seconds)

    async def models(self, *, category: str | None = "video", refresh: bool = False) -> tuple[Model, ...]:
        """The gateway's catalogue, remembered for five minutes.

        Args:
            category: Rows of this category that can be called; ``None`` for every row.
            refresh: Read it anew.

        Raises:
            VideoRouterError: It could not be read.
        """
        return await self._catalog.read(self._caller, category=category, refresh=refresh)

    async def upload(self, file: Input, *, model: str | None = None, timeout: Timeout = UNSET) -> Asset:
        """Upload an input once and wait until the gateway's review lets it be used.

        Args:
            file: A ``Path``, bytes, a binary file, or an http(s) URL that the gateway fetches itself.
            model: The model it is for; default: the client's.
            timeout: Seconds; default: the client's.

        Returns:
            The asset, which stands wherever a URL field is taken.

        Raises:
            InvalidRequestError: The file cannot be used; nothing was sent.
            UnprocessableEntityError: Its review failed.
            VideoRouterError: The upload failed.
        """
        chosen = check_model(model, self._settings.model)
        seconds = self._find_timeout(timeout)
        return await self._uploads.bring(self._caller, file, model=chosen, deadline=time.monotonic() + seconds)

    async def balance(self) -> Balance:
        """What is left on the account, in US dollars.

        Raises:
            VideoRouterError: It could not be read.
        """
        return await read_account(self._caller)

    def _find_timeout(self, given: Timeout) -> float:
        return self._settings.timeout if isinstance(given, UnsetType) else check_timeout(given)

    @property
    def in_doubt(self) -> tuple[InDoubt, ...]:
        """Requests of this client that may have been billed and whose answer nobody has."""
        return tuple(self._caller.shared.in_doubt)

    @property
    def http_client(self) -> httpx.AsyncClient:
        """The ``httpx.AsyncClient`` that every request of this client and its views can go through.

        It stands over this package's own transport, and what is set on it counts from then on for every request:
        ``event_hooks``, ``auth``, ``headers``, ``params``, ``cookies`` and mounts. Its timeouts do not: ``timeout=`` of
        each call does. Downloads use its hooks and mounts only: auth, headers and cookies are never sent to file hosts.
        Header fields that a request needs win over yours. The client that you brought as ``http_client=`` is this one.
        """
        return self._sender.client

    def with_options(self, **overrides: Any) -> Self:
        """A view of this client with other options. It shares connections, limits of models, counters and ``in_doubt``.

        Uploads and the catalogue are shared as long as gateway and key are the same. Making a view costs next to nothing.
        Closing a view closes nothing; the client that it was made from does.

        Args:
            **overrides: Any option of the constructor but ``proxy``, ``trust_env``, ``ssl_context`` and
                ``http_client``, which belong to the shared connections.

        Returns:
            The view.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        caller = self._caller
        hooks = {name: overrides.pop(name, getattr(caller, name)) for name in ("on_event", "on_in_doubt")}
        fixed = overrides.keys() - (OPTIONS - {"proxy", "trust_env"})
        if fixed:
            raise ConfigurationError(
                f"with_options cannot change {', '.join(sorted(fixed))}. Make a client of its own for that."
            )
        if "api_key" in overrides:
            overrides["api_key"] = seal(overrides["api_key"])
        view = object.__new__(type(self))
        view._options = {**self._options, **overrides}
        view._environ = self._environ
        view._is_view = True
        view._sender = self._sender
        settings = resolve(view._options, view._environ)
        same_account = settings.account == self._settings.account
        view._catalog = self._catalog if same_account else Catalog()
        view._uploads = self._uploads if same_account else Uploads()
        limit = caller.shared.open_limit(settings) if "max_concurrency" in overrides else caller.limit
        view._caller = Caller(settings, caller.shared, **hooks, limit=limit)
        view._builder = RequestBuilder(view._caller, view._uploads)
        return view

    def stats(self) -> Stats:
        """The counters of this client at this moment."""
        return self._caller.shared.count(self._caller.limit)

    async def drain(self, timeout: Number | None = 60.0) -> DrainReport:
        """Take no new job, and wait for those that run. What is left is named, so that it can be collected later.

        Args:
            timeout: Seconds to wait at most; ``None`` means thirty days.

        Returns:
            Whether everything ended, the ids of tasks that run on, and what is in doubt. The client stays open for
            downloads and looks at tasks; close it when done.

        Raises:
            ConfigurationError: ``timeout`` is no positive number.
        """
        return await self._caller.shared.drain(seconds=check_timeout(timeout))

    async def _close_queues(self) -> None:
        await self._caller.shared.close_queues()

    async def aclose(self) -> None:
        """Close what is open. Idempotent; a client that you brought stays open, and so does what a view shares."""
        if self._is_view:
            return
        await self._caller.shared.aclose()

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def _as_task(task: Task | str | VideoRouterError | InDoubt) -> Task:
    if isinstance(task, VideoRouterError | InDoubt):
        found = Task.of(task)
        if found is None:
            raise InvalidRequestError(
                f"This {type(task).__name__} names no accepted task: there is nothing to wait for."
            )
        return found
    return task if isinstance(task, Task) else Task(id=find_task_id(task))
