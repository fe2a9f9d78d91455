"""For those who write parts of their own: what Clockwork's own parts are held to."""

from clockwork.testing.schedulers import check_scheduler

__all__ = ["check_scheduler"]
