"""One paid request, from its arguments to its result: prepare, send, retry, poll, limit, upload."""
