"""Contains tests for third-party schedulers. Clockwork's own schedulers pass these tests as well."""

from clockwork.testing.schedulers import check_scheduler

__all__ = ["check_scheduler"]
