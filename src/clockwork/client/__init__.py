"""The native clients: `Client` for ordinary code, `AsyncClient` for asyncio. Import them from ``clockwork``."""

from clockwork.client.aio import AsyncClient, AsyncModel
from clockwork.client.result import InferenceResult
from clockwork.client.sync import Client, Model

__all__ = ["AsyncClient", "AsyncModel", "Client", "InferenceResult", "Model"]
