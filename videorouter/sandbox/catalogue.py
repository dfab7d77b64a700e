"""The models that the sandbox offers: families, prices, lengths and how long each takes.

The figures are of the order that the vendor's pages show, good enough to see money move; nothing here is a price list.
This file decides what a model id and a duration mean; it never performs I/O.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogModel:
    """One entry of the catalogue.

    Attributes:
        id: The model id.
        name: The name that people read.
        category: ``video``, or another kind that a video client has to leave out.
        per_second: US dollars for a second of video.
        seconds: Length billed when the request names none.
        wait: Least and most seconds that a video takes in the realistic profile.
        deprecated: Whether the vendor wants it gone.
    """

    id: str
    name: str
    category: str = "video"
    per_second: float = 0.10
    seconds: float = 8.0
    wait: tuple[float, float] = (120.0, 240.0)
    deprecated: bool = False


MODELS: tuple[CatalogModel, ...] = (
    CatalogModel(id="veo3-fast", name="Veo 3 Fast", per_second=0.15, wait=(120.0, 165.0)),
    CatalogModel(id="veo3", name="Veo 3", per_second=0.40, wait=(150.0, 240.0), deprecated=True),
    CatalogModel(id="google/veo3.1/text-to-video", name="Veo 3.1", per_second=0.40, wait=(150.0, 240.0)),
    CatalogModel(
        id="google/veo3.1/image-to-video", name="Veo 3.1, image to video", per_second=0.40, wait=(150.0, 240.0)
    ),
    CatalogModel(id="sora-2", name="Sora 2", per_second=0.10, seconds=4.0, wait=(120.0, 200.0)),
    CatalogModel(id="sora-2-video-to-video", name="Sora 2, edit", per_second=0.10, seconds=4.0, wait=(120.0, 200.0)),
    CatalogModel(id="sora-2-pro", name="Sora 2 Pro", per_second=0.30, seconds=4.0, wait=(160.0, 240.0)),
    CatalogModel(id="bytedance/seedance-2.0/text-to-video", name="Seedance 2", per_second=0.153, seconds=5.0),
    CatalogModel(
        id="bytedance/seedance-2.0/image-to-video",
        name="Seedance 2, image to video",
        per_second=0.153,
        seconds=5.0,
    ),
    CatalogModel(id="kling-v2", name="Kling 2", per_second=0.07, seconds=5.0),
    CatalogModel(id="gpt-5-mini", name="GPT-5 mini", category="text", per_second=0.0),
    CatalogModel(id="nano-banana", name="Nano Banana", category="image", per_second=0.0),
)

_BY_ID = {model.id: model for model in MODELS}
_TASKS = re.compile(r"[-/](?:text|image|video|reference)-to-video$|[-/](?:edit|edits|remix)$")
_QUICK = (0.15, 0.6)
_LONGEST = 60.0


def find_model(model_id: str) -> CatalogModel | None:
    """Return the catalogue's entry for a model id, or ``None``.

    Args:
        model_id: The id as the request has it.
    """
    return _BY_ID.get(model_id)


def name_family(model_id: str) -> str:
    """Return the family whose videos a model can edit: its id without vendor and task.

    Args:
        model_id: ``sora-2-video-to-video`` and ``openai/sora-2/text-to-video`` both give ``sora-2``.
    """
    return _TASKS.sub("", model_id.strip().lower()).rsplit("/", 1)[-1]


def read_duration(value: object, model_id: str) -> float | None:
    """Return the seconds that a request asks for, ``None`` where it leaves them to the model.

    A Veo model ignores a bare number, as the live one does.

    Args:
        value: ``"8s"``, ``"8"``, ``8``, ``"auto"`` or nothing.
        model_id: The model that is asked.

    Raises:
        ValueError: It is no duration, or none that a gateway would sell.
    """
    if value is None or (isinstance(value, str) and value in {"", "auto"}):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name_family(model_id).startswith("veo"):
            return None
        seconds = float(value)
    elif isinstance(value, str) and (found := re.fullmatch(r"\s*(\d{1,4}(?:\.\d{1,3})?)\s*s?\s*", value)):
        seconds = float(found[1])
    else:
        raise ValueError(f"duration must be seconds such as '8s', '8', 8 or 'auto', got {value!r}")
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"duration must be more than 0 and at most {_LONGEST:.0f} seconds, got {value!r}")
    return seconds


def reckon_price(model_id: str, seconds: float | None, takes: int) -> float:
    """Return what a job costs, in US dollars.

    Args:
        model_id: The model.
        seconds: Length of one video, or ``None`` for the model's own.
        takes: Number of videos.
    """
    model = _BY_ID.get(model_id) or CatalogModel(id=model_id, name=model_id)
    return round(model.per_second * (seconds or model.seconds) * takes, 4)


def draw_latency(
    profile: str, model_id: str, fixed: float | tuple[float, float] | None, speed: float, token: str
) -> float:
    """Return how long one job takes, in seconds; the same token gives the same time.

    Args:
        profile: ``instant``, ``quick`` or ``realistic``.
        model_id: The model, which decides in the realistic profile.
        fixed: Seconds, or a pair to draw between, that replace the profile's.
        speed: The result is divided by it.
        token: Seed and request in one string.
    """
    if fixed is not None:
        low, high = fixed if isinstance(fixed, tuple) else (fixed, fixed)
    elif profile == "instant":
        return 0.0
    elif profile == "quick":
        low, high = _QUICK
    else:
        low, high = (_BY_ID.get(model_id) or CatalogModel(id=model_id, name=model_id)).wait
    if low < high:
        low += (high - low) * random.Random(token).random()  # noqa: S311 - latencies are no secret
    return low / speed


def list_models() -> list[dict[str, object]]:
    """Return the catalogue as ``GET /v1/models`` shows it."""
    return [
        {
            "id": model.id,
            "display_name": model.name,
            "category_type": model.category,
            "min_request_price": reckon_price(model.id, None, 1) if model.category == "video" else 0.001,
            "deprecated": model.deprecated,
            "is_display_only": False,
        }
        for model in MODELS
    ]
