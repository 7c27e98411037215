"""Suites of one layer each."""
