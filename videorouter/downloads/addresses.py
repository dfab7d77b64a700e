"""Checks where a file may be fetched from, its name's addresses included. It sends nothing and connects to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videorouter.downloads.guard import check_addresses

if TYPE_CHECKING:
    from videorouter.downloads.guard import Policy, Target
    from videorouter.http import Sender


async def find_addresses(sender: Sender, target: Target, policy: Policy, *, deadline: float) -> tuple[str, ...]:
    """The checked addresses to connect to, so that a second DNS answer changes nothing.

    Args:
        sender: Who will connect; it knows whether a proxy or a mock resolves names in its place.
        target: A URL whose words were judged.
        policy: What the client permits.
        deadline: ``time.monotonic()`` value at which to give up.

    Returns:
        IP literals; empty when the host is a literal itself, or when something else resolves the name.

    Raises:
        DownloadError: One of them may not be connected to.
        WireError: The name could not be resolved.
    """
    if target.literal is not None:
        return ()
    addresses = await sender.resolve(target.url, deadline=deadline)
    check_addresses(target, addresses, policy)
    return addresses
