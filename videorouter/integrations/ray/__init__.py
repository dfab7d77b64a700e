"""Batches on more than one machine: ``generate_dataset`` runs prompts on a Ray cluster and gives a dataset of results.

One ledger and one pace for the whole cluster live in two actors; the ledger keeps an ordinary journal on the driver's
disk. Workers are Ray Data actors with one client each. This file checks what was asked for, starts the actors and lays
out the run; it sends nothing itself. It needs the extra ``ray``.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import ray
    import ray.data
    import ray.exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as _error:
    _msg = f"Batches on Ray need the package {_error.name}. In a clone of videorouter: pip install '.[ray]'"
    raise ModuleNotFoundError(_msg, name=_error.name) from _error

from videorouter import errors
from videorouter.client import AsyncVideoRouter
from videorouter.config import BASE_URL_VARIABLE, KEY_VARIABLES, check_count
from videorouter.errors import ConfigurationError, VideoRouterError
from videorouter.integrations.ray.ledger import LEASE, Ledger
from videorouter.integrations.ray.pacing import Pacemaker
from videorouter.integrations.ray.rows import number_rows, open_source
from videorouter.integrations.ray.saving import open_store
from videorouter.integrations.ray.worker import Plan, Worker
from videorouter.journal.budget import Price

if TYPE_CHECKING:
    from ray.data.dataset import MaterializedDataset

__all__ = ["generate_dataset"]

_BLOCKS = 8
"""Blocks that each worker should get at least, so that none sits idle at the end."""
BLOCKS_AT_ONCE = 64
"""Blocks that a worker has at once: one whose last row is slow holds up no other."""
_ONE_PROCESS = {"deduplicate", "new", "ordered"}
_CHAINS = {"then", "edit_of"}
_NOT_HERE = {"http_client", "ssl_context", "on_event", "on_in_doubt"}


def generate_dataset(
    prompts: ray.data.Dataset | str | os.PathLike[str] | Iterable[Any],
    *,
    journal: str | os.PathLike[str],
    model: str | None = None,
    prompt_column: str = "prompt",
    id_column: str | None = None,
    field_columns: Iterable[str] = (),
    workers: int = 2,
    concurrency: int | None = None,
    save_to: str | os.PathLike[str] | None = None,
    name: str | None = None,
    max_cost: float | None = None,
    price: Price | None = None,
    on_outcome_unknown: str | Callable[[Any], Any] = "report",
    stop_after: int = 20,
    retry: Iterable[str] | bool = (),
    client_options: Mapping[str, Any] | None = None,
    lazy: bool = False,
    block_rows: int | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    **fields: Any,
) -> ray.data.Dataset:
    """Make a video for every row of a dataset, on a Ray cluster, and never pay twice for one.

    A worker, a node or the driver may be killed at any time. What was accepted is collected, what was done is shown,
    what never left runs, and what may have been billed is in doubt and not sent again. The same call goes on from there.

    Args:
        prompts: A dataset; the path or URL of a Parquet, JSON Lines or CSV file or of a folder of Parquet files; a table
            (pandas, Arrow, Polars); or an iterable of prompts or dicts.
        journal: A file on the driver's disk, in the format of ``generate_many``: ``videorouter batch`` reads it.
        model: The model of all rows that name none; default: the client's.
        prompt_column: The column of prompts.
        id_column: The column of ids, which must be unique; default: an id made from the request.
        field_columns: Columns that are fields of the request, such as ``duration``. All others are kept as they are.
        workers: Actors, each with one client.
        concurrency: Jobs at once in the whole cluster; default: what the gateway and the clients allow.
        save_to: A folder that all nodes share, or a URL that fsspec knows, such as ``s3://bucket/clips``.
        name: A template of file names, as in ``generate_many``.
        max_cost: US dollars that the whole cluster never exceeds, earlier runs included. Needs a price.
        price: US dollars of one row: a number, a table by model, or a function of the request's fields.
        on_outcome_unknown: ``"report"``, ``"resend"``, ``"replay"`` or a function, as in ``generate_many``.
        stop_after: Identical 400, 404 or 422 answers in a row, at one worker, after which nothing more is sent.
        retry: States of the journal to send again: ``"refused"``, ``"failed"``.
        client_options: Options of ``AsyncVideoRouter``. An ``api_key`` in it, or in the driver's environment, reaches
            the workers through the ledger and stands in no task and no log; a callable is called on each worker.
        lazy: Whether to give the dataset before anything is sent. Run it to its end then: whatever cuts it short
            (``take``, ``limit``, ``show``) cancels what is in flight, and that is in doubt.
        block_rows: Rows that a worker takes at once, and that run again when it dies; default: by the input's size.
        ray_remote_args: Of the workers, such as ``{"num_cpus": 1}``; default: a quarter of a CPU each.
        **fields: Fields and options of all rows, as ``generate`` takes them.

    Returns:
        A dataset with the columns ``index``, ``id``, ``state``, ``prompt``, ``model``, ``url``, ``video_id``,
        ``task_id``, ``cost``, ``error``, ``path``, ``urls``, ``paths``, ``resumed``, and the input's other columns.

    Raises:
        ConfigurationError: Something cannot be used; nothing was sent.
        JournalBusyError: Another batch writes the journal.
        JournalMismatchError: The journal has a row of the same id with another request.
        JournalError: The journal cannot be used.
    """
    columns = (field_columns,) if isinstance(field_columns, str) else tuple(field_columns)
    if wrong := sorted(_ONE_PROCESS & fields.keys()):
        raise ConfigurationError(
            f"{wrong[0]} needs one process: use generate_many, or make the dataset so, for example with Dataset.unique and "
            "Dataset.sort."
        )
    if wrong := sorted(_CHAINS & set(columns)):
        raise ConfigurationError(f"A column {wrong[0]!r} needs one process: use generate_many.")
    options = {
        "model": model,
        "save_to": None if save_to is None else _check_place(os.fspath(save_to)),
        "name": name,
        "price": price,
        "on_outcome_unknown": on_outcome_unknown,
        "stop_after": stop_after,
        "retry": retry if isinstance(retry, bool | str) else tuple(retry),
        **fields,
    }
    client, key = _split_key(client_options)
    workers = check_count(workers, "workers", least=1)
    if block_rows is not None:
        block_rows = check_count(block_rows, "block_rows", least=1)
    if concurrency is not None:
        concurrency = check_count(concurrency, "concurrency", least=1)
        if not client.get("adaptive", True):
            workers = min(workers, concurrency)
            most = concurrency // workers
            client["max_concurrency"] = min(client.get("max_concurrency") or most, most)
    _check({**options, "max_cost": max_cost, "journal": journal}, client)
    wanted = (prompt_column, *(() if id_column is None else (id_column,)), *columns)
    source = open_source(prompts, prompt_column)
    numbered, total = number_rows(source, wanted, block_rows, workers * _BLOCKS)
    if not total:
        return numbered
    path = str(Path(journal).absolute())
    ledger, pacemaker = _start_actors(path, max_cost, concurrency, key)
    plan = Plan(
        ledger=ledger,
        pacemaker=pacemaker if client.get("adaptive", True) else None,
        journal=path,
        client_options=client,
        options=options,
        prompt_column=prompt_column,
        id_column=id_column,
        field_columns=columns,
        beat=LEASE / 4,
    )
    results = lay_out(numbered, plan, min(workers, total), ray_remote_args)
    if lazy:
        return results
    try:
        finished: ray.data.Dataset = results.materialize()
    except (ray.exceptions.RayError, ray.exceptions.UserCodeException) as error:
        raise _read_fatal(ledger) or find_cause(error) from error
    finally:
        # Of a ledger that has died nothing is lost by this: the rows say so, and what was collected is in them
        with contextlib.suppress(ray.exceptions.RayActorError):
            _call(ledger.close)
    fatal = _read_fatal(ledger)
    if fatal is not None:
        raise fatal
    return finished


def lay_out(
    numbered: MaterializedDataset[Any], plan: Plan, workers: int, ray_remote_args: Mapping[str, Any] | None = None
) -> ray.data.Dataset:
    """The run as Ray Data will do it: so many actors, so many blocks at once in each."""
    # Else each block at a worker has a thread that reads the memory of the whole process every second
    numbered.context.memory_usage_poll_interval_s = None
    # The worker that starts first must not take the blocks of all the others
    most = max(1, min(BLOCKS_AT_ONCE, -(-numbered.num_blocks() // workers)))
    at_once: dict[str, Any] = {"max_tasks_in_flight_per_actor": most}
    others: dict[str, Any] = {"num_cpus": 0.25, **(ray_remote_args or {})}
    if "max_concurrent_calls_per_actor" in inspect.signature(ray.data.ActorPoolStrategy).parameters:
        at_once["max_concurrent_calls_per_actor"] = most
    else:  # pragma: no cover  older releases of Ray
        others["max_concurrency"] = most
    results: ray.data.Dataset = numbered.map_batches(
        Worker,
        fn_constructor_args=(plan,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=workers, **at_once),
        **others,
    )
    return results


def find_cause(error: BaseException) -> BaseException:
    """The error of this package inside one of Ray's, where there is one."""
    seen: BaseException | None = error
    while seen is not None:
        for found in (getattr(seen, "cause", None), seen):
            if isinstance(found, VideoRouterError) and not isinstance(found, ray.exceptions.RayError):
                return found
        seen = seen.__cause__
    return error


def _start_actors(path: str, max_cost: float | None, concurrency: int | None, key: str | None) -> tuple[Any, Any]:
    """The ledger and the pace, on the driver's own node: the journal is on its disk."""
    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    run = uuid.uuid4().hex[:8]
    # A call of theirs is a group of words, not a step of a pipeline that somebody watches: no event for each
    actor = {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": 10_000, "enable_task_events": False}
    laid = _lay_down(key)
    try:
        ledger = (
            ray.remote(Ledger)
            .options(name=f"videorouter-ledger-{run}", **actor)
            .remote(path, max_cost=max_cost, key_path=laid, lease=LEASE)
        )
        pacemaker = (
            ray.remote(Pacemaker)
            .options(name=f"videorouter-pace-{run}", max_restarts=-1, max_task_retries=-1, **actor)
            .remote(concurrency=concurrency)
        )
        _call(ledger.open)
    finally:
        if laid is not None:  # the ledger has never started, or on another machine
            Path(laid).unlink(missing_ok=True)
    return ledger, pacemaker


def _read_fatal(ledger: Any) -> VideoRouterError | None:
    """The error that ends the whole run, where there is one."""
    try:
        fatal = _call(ledger.fatal)
    except ray.exceptions.RayActorError:
        return None
    return None if fatal is None else getattr(errors, fatal[0], VideoRouterError)(fatal[1])


def _call(method: Any) -> Any:
    try:
        return ray.get(method.remote())
    except ray.exceptions.RayError as error:
        raise find_cause(error) from error


def _split_key(given: Mapping[str, Any] | None) -> tuple[dict[str, Any], str | None]:
    """The client's options without a key in clear text, and that key."""
    client = dict(given or {})
    wrong = _NOT_HERE & client.keys()
    if wrong:
        raise ConfigurationError(
            f"client_options cannot hold {', '.join(sorted(wrong))}: it does not travel to workers."
        )
    key = client.get("api_key")
    if isinstance(key, str):
        del client["api_key"]
    elif key is None:
        client.pop("api_key", None)
        key = next((os.environ[variable] for variable in KEY_VARIABLES if os.environ.get(variable)), None)
    if os.environ.get(BASE_URL_VARIABLE):
        client.setdefault("base_url", os.environ[BASE_URL_VARIABLE])
    return client, key if isinstance(key, str) else None


def _lay_down(key: str | None) -> str | None:
    """The key in a file that only this user can read, until the ledger has read and removed it."""
    if key is None:
        return None
    descriptor, path = tempfile.mkstemp(prefix="videorouter-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key)
    return path


def _check(options: dict[str, Any], client: dict[str, Any]) -> None:
    """Refuse here, before any actor starts, what a worker would refuse."""
    probe = AsyncVideoRouter(**{"api_key": "known-to-the-workers", **client})
    given = {name: value for name, value in options.items() if value is not None}
    if "://" in str(given.get("save_to", "")):
        del given["save_to"]  # a store, which the workers save to themselves
    probe.generate_many([], **given)


def _check_place(place: str) -> str:
    if place.startswith("file://"):
        place = place.removeprefix("file://")
    if "://" in place:
        open_store(place)
        return place
    return os.path.abspath(place)  # noqa: PTH100  a symlink that the user gave stays as given
