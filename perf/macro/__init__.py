"""Suites of whole workflows."""
