"""One exchange on one socket, and the phase of every request."""
