"""Fixtures for the stand-in of the Hub."""
