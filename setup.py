"""Packaging of gill: the metadata and the ranges of versions are in `pyproject.toml`."""

from setuptools import setup

setup()
