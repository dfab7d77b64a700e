"""One request over one connection: pools, parsers, TLS and the phase of every attempt."""
