"""What runs first in a forked child."""

import gc
import os

import pytest

from videorouter.forks import after_fork

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are a matter of POSIX"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


class Owner:
    def __init__(self):
        self.calls = 0
        after_fork(self, Owner.count)

    def count(self):
        self.calls += 1


def in_child(look):
    """What a forked child sees, as the number that it exits with."""
    pid = os.fork()
    if pid == 0:
        os._exit(look())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_owner_is_told_in_the_child_and_only_there():
    owner = Owner()
    assert in_child(lambda: owner.calls) == 1
    assert owner.calls == 0


def test_nobody_is_kept_alive_to_be_told(monkeypatch):
    told = []
    monkeypatch.setattr(Owner, "count", lambda _: told.append(1))
    owner = Owner()
    kept = Owner()
    del owner
    gc.collect()
    assert in_child(lambda: len(told)) == 1
    assert kept.calls == 0
