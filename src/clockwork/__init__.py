"""Clockwork: an inference server for many models on few devices that knows when each request will finish."""

__version__ = "0.1.0"
