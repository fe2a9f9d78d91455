"""The controller: starts up, admits requests, lets a scheduler decide, and answers clients. Pure: no I/O, no clock."""
