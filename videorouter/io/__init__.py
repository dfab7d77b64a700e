"""The only rooms with sockets, disks and threads."""
