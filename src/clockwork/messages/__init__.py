"""The messages that clients, the controller and workers exchange. They are msgspec structs without behaviour."""
