"""A client of the service: many images in few requests, sent again when the server is busy."""

from serving.client.clients import AsyncClient, Client
from serving.client.exchanges import Answer, ServerError

__all__ = ["Answer", "AsyncClient", "Client", "ServerError"]
