"""A stream of entries in, a stream of items out; resumable."""
