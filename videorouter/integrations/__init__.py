"""Guests with dependencies of their own; the core never imports them."""
