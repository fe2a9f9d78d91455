"""What monitoring asks for: the controller's counts in Prometheus' text format.

Rules of the room: nothing is counted here, and nothing happens until somebody asks. The library's objects are made of
the counts for one answer, and never touched by a request.
"""

from clockwork.metrics.scrape import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Metrics"]
