"""A durable queue of paid work: any process may ask, and one of them pays."""
