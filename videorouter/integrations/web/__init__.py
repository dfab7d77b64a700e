"""``jobs_app``: a queue of jobs over HTTP, for browsers and for other hosts; mountable in any ASGI application.

Needs the extra ``web``, which is Starlette.
"""

from videorouter.integrations.web.app import jobs_app

__all__ = ["jobs_app"]
