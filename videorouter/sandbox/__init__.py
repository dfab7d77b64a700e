"""A pretend gateway over real HTTP. It imports nothing of the client, so it cannot agree with its mistakes."""
