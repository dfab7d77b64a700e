"""How many calls fit the file-descriptor limit."""

import resource

import pytest

from videorouter.call import limits


@pytest.mark.parametrize(("limit", "jobs"), [(64, 32), (256, 224), (1024, 896), (20_000, 1000), (None, 1000), (10, 1)])
def test_the_default_stays_below_the_file_limit(monkeypatch, limit, jobs):
    monkeypatch.setattr(limits, "read_file_limit", lambda: limit)
    assert limits.default_concurrency() == jobs


def test_the_soft_limit_counts():
    assert limits.read_file_limit() in (resource.getrlimit(resource.RLIMIT_NOFILE)[0], None)
