"""The messages that clients, controller and workers exchange, as msgspec structs. Pure data."""
