"""Tests for schedulers of other authors, which Clockwork's own schedulers pass as well."""

from clockwork.testing.schedulers import check_scheduler

__all__ = ["check_scheduler"]
