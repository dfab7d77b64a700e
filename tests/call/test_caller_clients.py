"""The law on other people's clients: whoever sends, and however often, nothing is billed twice in silence.

Each client of ``clients`` sends twice: because it does so by itself (an auth flow, Digest, a retrying transport), or
because the first answer was a refusal, which every call waits out. What became of the first sending says nothing of
the second.
"""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest
from calling import KEY, fail
from clients import CLIENTS, RESEND, SILENT, Retrying
from servers import Gateway, answer, lose

from videorouter import AsyncVideoRouter, OutcomeUnknownError, Phase
from videorouter.transport.httpx_transport import VideoTransport

pytestmark = pytest.mark.anyio

REFUSAL = answer(429, None, "Retry-After: 0")
CHALLENGE = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
FIRSTS = [(name, REFUSAL) for name in CLIENTS] + [
    ("auth that resends", answer(401, None, RESEND)),
    ("auth that resends", answer(429, None, RESEND)),
    ("digest", answer(401, None, CHALLENGE)),
    ("retrying transport", answer(429, None, RESEND)),
]
"""Clients, and the answers to the first sending that make them send again, or us."""


class Ledger(Gateway):
    """A gateway that counts what it would have billed, and refuses everything after its script."""

    def __init__(self, *steps) -> None:
        super().__init__(*steps, answer(403))
        self.billed = 0

    def bills(self, step):
        """The step, at the price of one video."""

        async def pay(visit) -> None:
            self.billed += 1
            await step(visit)

        return pay


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.0)
    # A retry is not sent where less time is left than an answer takes: here a moment will do.
    monkeypatch.setattr("videorouter.call.limiter._UNKNOWN_TIME", 0.0)


@pytest.fixture(params=FIRSTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(FIRSTS)])
def case(request):
    return request.param


@pytest.fixture
def name(case):
    return case[0]


@pytest.fixture
def first(case):
    return case[1]


@pytest.fixture
async def options(request, name):
    async with CLIENTS[name](request) as options:
        yield options


@pytest.fixture
async def ledger():
    async with Ledger() as ledger:
        yield ledger


@pytest.fixture
async def router(options, ledger):
    async with AsyncVideoRouter(KEY, base_url=ledger.url, adaptive=False, **options) as router:
        yield router


async def test_a_second_sending_that_is_lost_is_in_doubt(name, first, ledger, router):
    ledger.steps[:0] = [first, ledger.bills(lose()), ledger.bills(answer())]
    error = await fail(router)
    assert type(error) is OutcomeUnknownError
    assert (len(ledger.posts), ledger.billed) == (2, 1)
    assert error.phase is (Phase.UNKNOWN if name in SILENT else Phase.SENT)
    assert (error.status, error.body) == (None, None)
    assert len(router.in_doubt) == 1


async def test_a_second_sending_that_is_refused_is_sent_again(first, ledger, router):
    ledger.steps[:0] = [first, REFUSAL, ledger.bills(answer())]
    result = await router.generate("otter", model="veo", timeout=10)
    assert result.video_id == "video_1"
    assert (len(ledger.posts), ledger.billed) == (3, 1)
    assert router.in_doubt == ()


async def test_a_second_sending_that_is_answered_too_late_is_in_doubt(name, first, ledger, router):
    ledger.steps[:0] = [first, ledger.bills(lose("hold")), ledger.bills(answer())]
    error = await fail(router, timeout=1.5)
    assert type(error) is OutcomeUnknownError
    assert (len(ledger.posts), ledger.billed) == (2, 1)
    assert error.phase is (Phase.UNKNOWN if name in SILENT else Phase.SENT)
    assert error.status is None
    assert len(router.in_doubt) == 1


# A client that sends again by itself where this one would not.


@pytest.fixture(params=["over stock", "over ours"])
async def stubborn(request, ledger):
    inner = VideoTransport() if request.param == "over ours" else None
    async with (
        httpx.AsyncClient(transport=Retrying(inner, after_loss=True)) as client,
        AsyncVideoRouter(KEY, base_url=ledger.url, adaptive=False, http_client=client) as router,
    ):
        yield router


DOUBTS = {"lost": lose(), "502": answer(502, None, RESEND)}


@pytest.mark.parametrize("first", DOUBTS.values(), ids=DOUBTS)
async def test_a_result_is_kept_and_the_sending_before_it_stays_in_doubt(stubborn, ledger, first):
    ledger.steps[:0] = [ledger.bills(first), ledger.bills(answer())]
    told = []
    router = stubborn.with_options(on_in_doubt=told.append)
    result = await router.generate("otter", model="veo", timeout=10)
    assert result.video_id == "video_1"
    assert ledger.billed == 2
    assert [record.idempotency_key for record in stubborn.in_doubt] == [result.idempotency_key]
    assert told == list(stubborn.in_doubt)
    assert "sent the request again by itself" in told[0].reason or "502" in told[0].reason


@pytest.mark.parametrize("second", [answer(403), REFUSAL], ids=["rejected", "refused"])
@pytest.mark.parametrize("first", DOUBTS.values(), ids=DOUBTS)
async def test_no_later_answer_undoes_the_doubt_of_a_sending(stubborn, ledger, first, second):
    ledger.steps[:0] = [ledger.bills(first), second, ledger.bills(answer())]
    error = await fail(stubborn)
    assert type(error) is OutcomeUnknownError
    assert (len(ledger.posts), ledger.billed) == (2, 1)
    assert len(stubborn.in_doubt) == 1


@pytest.mark.parametrize("first", DOUBTS.values(), ids=DOUBTS)
async def test_a_second_sending_that_never_left_undoes_no_doubt(stubborn, ledger, first):
    async def last(visit):
        ledger._server.close()
        await first(visit)
        visit.close()

    ledger.steps[:0] = [ledger.bills(last)]
    error = await fail(stubborn)
    assert type(error) is OutcomeUnknownError
    assert (len(ledger.posts), ledger.billed) == (1, 1)


async def test_an_honoured_key_makes_one_job_of_all_sendings(stubborn, ledger):
    ledger.steps[:0] = [lose(), ledger.bills(answer())]
    result = await stubborn.with_options(idempotency="honoured").generate("otter", model="veo", timeout=10)
    assert result.video_id == "video_1"
    assert stubborn.in_doubt == ()


async def test_a_call_that_is_cancelled_in_its_second_sending_is_in_doubt_for_its_first(ledger):
    second = asyncio.Event()

    class Slow(Retrying):
        async def handle_async_request(self, request):
            with contextlib.suppress(httpx.TransportError):
                return await self.inner.handle_async_request(request)
            second.set()
            return await asyncio.Event().wait()

    ledger.steps[:0] = [ledger.bills(lose())]
    async with httpx.AsyncClient(transport=Slow()) as client:
        router = AsyncVideoRouter(KEY, base_url=ledger.url, http_client=client)
        call = asyncio.create_task(router.generate("otter", model="veo", timeout=10))
        await second.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(router.in_doubt) == 1


async def test_a_post_through_a_wrapped_send_takes_no_connection_that_was_long_idle(monkeypatch):
    async with Gateway(answer()) as gateway, CLIENTS["wrapped send over ours"](_Request(monkeypatch)) as options:
        async with AsyncVideoRouter(KEY, base_url=gateway.url, **options) as router:
            await router.generate("otter", model="veo")
            monkeypatch.setattr("videorouter.transport.connection.POST_IDLE", -1.0)
            await router.generate("otter", model="veo")
            assert gateway.connections == 2


class _Request:
    def __init__(self, monkeypatch) -> None:
        self.monkeypatch = monkeypatch

    def getfixturevalue(self, _):
        return self.monkeypatch
