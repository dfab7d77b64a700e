"""How the cluster's one pace is dealt out, without a cluster."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies as st

from videorouter.call.limiter import ClientLimit
from videorouter.integrations.ray.pacing import Follower, Link, Pacemaker, deal
from videorouter.integrations.ray.words import Demand, Share, Shares, encode, read_demands, read_shares

LANE = ("https", "video.example", 443, "veo3-fast")


OTHER = ("https", "video.example", 443, "kling")


async def report(pacemaker, worker, serial=0, lane=LANE, **what):
    demand = Demand(lane, **{"used": 0, "waiting": 100, **what})
    return read_shares(await pacemaker.report(worker, encode((serial, (demand,)))))


def test_a_lane_is_dealt_out_by_need():
    assert deal(16, {"a": (0, 100, 0), "b": (0, 2, 0)}) == {"a": 14, "b": 2}


def test_what_runs_is_not_taken_back_but_not_replaced_either():
    shares = deal(10, {"a": (10, 50, 10), "b": (0, 50, 0)})
    assert shares == {"a": 5, "b": 0}
    assert deal(10, {"a": (7, 50, 5), "b": (0, 50, 0)}) == {"a": 5, "b": 3}


def test_where_there_are_fewer_jobs_than_workers_everybody_has_a_turn():
    wants = dict.fromkeys("abc", (0, 9, 0))
    first = [next(worker for worker, share in deal(1, wants, turn).items() if share) for turn in range(3)]
    assert sorted(first) == ["a", "b", "c"]


@given(
    st.integers(0, 400),
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=2),
        st.tuples(st.integers(0, 60), st.integers(0, 200), st.integers(0, 60)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 20),
)
def test_new_shares_never_exceed_what_is_free(total, wants, turn):
    shares = deal(total, wants, turn)
    standing = sum(max(used, share) for used, _, share in wants.values())
    after = sum(max(shares[worker], used, share) for worker, (used, _, share) in wants.items())
    assert after <= max(total, standing)
    assert all(share >= 0 for share in shares.values())


@pytest.mark.anyio
async def test_a_share_counts_until_a_smaller_one_is_confirmed():
    pacemaker = Pacemaker(concurrency=10)
    first = await report(pacemaker, "a")
    assert first.shares[0].limit == 10
    assert (await report(pacemaker, "b")).shares[0].limit == 0
    smaller = await report(pacemaker, "a", first.serial)
    assert smaller.shares[0].limit == 5
    assert (await report(pacemaker, "b")).shares[0].limit == 0, "a has not said yet that it goes by five"
    await report(pacemaker, "a", smaller.serial)
    assert (await report(pacemaker, "b")).shares[0].limit == 5


@pytest.mark.anyio
async def test_a_retry_after_that_one_hears_is_pushed_to_all():
    pacemaker = Pacemaker()
    await report(pacemaker, "a")
    await report(pacemaker, "b")
    watching = asyncio.ensure_future(pacemaker.watch("b"))
    await asyncio.sleep(0)
    await report(pacemaker, "a", refusals=(30.0,))
    shares = read_shares(await watching)
    assert 29 < shares.shares[0].pause <= 30


@pytest.mark.anyio
async def test_a_worker_that_waits_is_told_when_another_has_given_back_what_it_may_have():
    pacemaker = Pacemaker(concurrency=10)
    first = await report(pacemaker, "a")
    assert (await report(pacemaker, "b")).shares[0].limit == 0
    watching = asyncio.ensure_future(pacemaker.watch("b"))
    await asyncio.sleep(0)
    smaller = await report(pacemaker, "a", first.serial, used=10)
    assert not watching.done()
    await report(pacemaker, "a", smaller.serial, used=5)
    assert read_shares(await asyncio.wait_for(watching, 1.0)).shares[0].limit == 5


@pytest.mark.anyio
async def test_a_worker_that_waits_is_told_when_the_lane_has_grown():
    pacemaker = Pacemaker()
    serial = (await report(pacemaker, "a")).serial
    await report(pacemaker, "b")
    watching = asyncio.ensure_future(pacemaker.watch("b"))
    await asyncio.sleep(0)
    await report(pacemaker, "a", serial, used=16, successes=16)
    assert read_shares(await asyncio.wait_for(watching, 1.0)).shares[0].limit > 0


@pytest.mark.anyio
async def test_a_smaller_share_is_confirmed_at_once_although_nothing_else_has_changed():
    serials = []
    confirmed = asyncio.Event()

    async def answer(message):
        serials.append(read_demands(message)[0])
        if len(serials) == 1:
            link.followers[LANE].count_success(0.0, 0)
        elif len(serials) == 3:
            confirmed.set()
        return encode(Shares(len(serials), (Share(LANE, 10 if len(serials) == 1 else 5),), every=0.001))

    async def watch():
        await asyncio.Event().wait()

    link = Link(answer, watch, ClientLimit(10))
    Follower(link, LANE)
    link.start()
    async with asyncio.timeout(1.0):  # and not after the two seconds in which every worker shows that it is alive
        await confirmed.wait()
    await link.aclose()
    assert serials == [0, 1, 2]


@pytest.mark.anyio
async def test_a_silent_workers_share_goes_to_the_others():
    pacemaker = Pacemaker(concurrency=10, expiry=60.0)
    await report(pacemaker, "a")
    pacemaker._seen["a"] = float("-inf")
    assert (await report(pacemaker, "b")).shares[0].limit == 10


@pytest.mark.anyio
async def test_the_lane_grows_by_what_all_workers_see():
    pacemaker = Pacemaker()
    serial = (await report(pacemaker, "a")).serial
    shares = await report(pacemaker, "a", serial, used=16, successes=16)
    assert shares.shares[0].limit == 32


@pytest.mark.anyio
@pytest.mark.parametrize("most", [1, 2, 7, 10])
async def test_the_lanes_of_all_models_together_have_no_more_jobs_than_the_cluster(most):
    pacemaker = Pacemaker(concurrency=most)
    granted: dict[tuple[str, str], int] = {}
    serials = {"a": 0, "b": 0}
    served = set()
    for turn in range(12):
        for worker in "ab":
            demands = tuple(
                Demand(lane, min(granted.get((worker, lane[3]), 0), 3), 50 if turn < 6 or lane is OTHER else 0)
                for lane in (LANE, OTHER)
            )
            shares = read_shares(await pacemaker.report(worker, encode((serials[worker], demands))))
            serials[worker] = shares.serial
            granted.update({(worker, share.lane[3]): share.limit for share in shares.shares})
            served |= {share.lane[3] for share in shares.shares if share.limit}
            running = {key: min(3, limit) for key, limit in granted.items()}
            assert sum(max(running[key], granted[key]) for key in granted) <= most
    assert most == 1 or served == {"veo3-fast", "kling"}


@pytest.mark.anyio
async def test_a_pace_that_was_started_again_is_heard_at_once():
    link = Link(None, None, None)
    follower = Follower(link, LANE)
    link._limit = type("ClientLimit", (), {"queues": ()})
    old = Pacemaker(concurrency=10)
    for _ in range(50):
        link._take(await report(old, "a", link._serial))
    assert follower.limit == 10
    link._take(await report(Pacemaker(concurrency=3), "a", link._serial))
    assert follower.limit == 3
