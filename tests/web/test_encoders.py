"""Each value that a client gives goes out of each framework as its fields, alone, in a list and in a dict."""

from __future__ import annotations

import json
from typing import Annotated

import django.conf
import flask
import httpx
import msgspec
import pydantic
import pytest
from django.http import JsonResponse
from fastapi import Body, FastAPI
from litestar import Litestar, get
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from videorouter import Balance, BatchItem, Download, Stats, Task, TaskStatus, Video, VideoResult

pytestmark = pytest.mark.anyio

VIDEO = Video(url="https://cdn.example/v.mp4", video_id="v-1").with_extras(
    model_="veo", request_=b'{"prompt": "secret"}'
)
RESULT = VideoResult(videos=(VIDEO,), cost=0.5, skipped=()).with_extras(raw_=b'{"data": "secret"}')
VALUES = [
    VIDEO,
    RESULT,
    Task(id="t-1", model="veo", result=RESULT).with_extras(request_=b"secret"),
    TaskStatus(task_id="t-1", state="completed", result=RESULT),
    Balance(credit_balance=2.5),
    BatchItem(index=0, id="a", state="done", result=RESULT, files=("v.mp4",)).with_extras(error_=ValueError("secret")),
    Download(file="v.mp4", size=3),
    Stats(calls=1),
]
FORMS = {"alone": lambda value: value, "listed": lambda value: [value, value], "named": lambda value: {"made": value}}

values = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def show(value, form):
    return form(json.loads(json.dumps(value.to_dict())))


async def fetch(app, path="/"):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as browser:
        answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@values
@forms
async def test_a_fastapi_route_returns_a_value_as_it_is(value, form):
    app = FastAPI()
    app.get("/")(lambda: form(value))
    assert await fetch(app) == show(value, form)


@values
async def test_a_fastapi_route_says_in_its_schema_what_it_returns(value):
    def alone():
        return value

    def listed():
        return FORMS["listed"](value)

    def named():
        return FORMS["named"](value)

    kind = type(value)
    app = FastAPI()
    for route, annotation in ((alone, kind), (listed, list[kind]), (named, dict[str, kind])):
        route.__annotations__["return"] = annotation
        app.get(f"/{route.__name__}")(route)
        assert await fetch(app, f"/{route.__name__}") == show(value, FORMS[route.__name__])
    described = (await fetch(app, "/openapi.json"))["paths"]["/alone"]["get"]["responses"]["200"]
    assert described["content"]["application/json"]["schema"]["properties"].keys() == value.to_dict().keys()


async def test_a_stored_task_comes_back_through_pydantic_and_fastapi():
    task = Task(id=None, result=VideoResult(videos=(Video().with_extras(data_=b"\0film"),)))
    read = pydantic.TypeAdapter(dict[str, Task])
    assert read.validate_json(read.dump_json({"a": task}))["a"].result.video.data == b"\0film"
    app = FastAPI()
    seen = []

    @app.post("/")
    async def take(task: Annotated[Task, Body()]) -> None:
        seen.append(task)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as browser:
        assert (await browser.post("/", json=task.to_dict())).status_code == 200
        refused = await browser.post("/", json={"id": 7})
    assert seen == [task]
    assert refused.status_code == 422
    assert "not a stored task" in refused.text


def test_pydantic_models_hold_values_and_refuse_what_is_none():
    class Job(pydantic.BaseModel):
        result: VideoResult | None = None

    job = Job(result=RESULT)
    assert job.result is RESULT
    assert Job.model_validate_json(job.model_dump_json()) == job
    with pytest.raises(pydantic.ValidationError, match="videos"):
        Job.model_validate({"result": {"cost": 1}})


@values
@forms
async def test_a_litestar_route_returns_a_value_as_it_is(value, form):
    @get("/", sync_to_thread=False)
    def route() -> object:
        return form(value)

    assert await fetch(Litestar([route])) == show(value, form)


@values
@forms
async def test_a_starlette_route_answers_with_msgspec(value, form):
    async def route(request):
        return Response(msgspec.json.encode(form(value)), media_type="application/json")

    assert await fetch(Starlette(routes=[Route("/", route)])) == json.loads(msgspec.json.encode(form(value)))


@values
@forms
def test_a_django_view_answers_with_its_own_response(value, form):
    if not django.conf.settings.configured:
        django.conf.settings.configure()
    answer = JsonResponse(form(value), safe=False, json_dumps_params={"default": msgspec.to_builtins})
    assert json.loads(answer.content) == show(value, form)


@values
@forms
def test_a_flask_view_answers_with_its_own_response(value, form):
    app = flask.Flask("videos")
    app.json.default = msgspec.to_builtins

    @app.get("/")
    def route():
        return flask.jsonify(form(value))

    assert app.test_client().get("/").json == show(value, form)


@values
def test_a_value_becomes_a_dict_like_a_model_of_pydantic(value):
    assert dict(value) == value.to_dict()
