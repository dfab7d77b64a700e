"""Fixtures for the test suites of people who use this client."""
