"""The messages that clients, the controller and workers exchange.

The messages are msgspec structs without behaviour.
"""
