"""Clients for Clockwork's native protocol. `Client` is for synchronous code, and `AsyncClient` is for asyncio.

Programs import both from ``clockwork``.
"""

from clockwork.client.aio import AsyncClient, AsyncModel
from clockwork.client.result import InferenceResult
from clockwork.client.sync import Client, Model

__all__ = ["AsyncClient", "AsyncModel", "Client", "InferenceResult", "Model"]
