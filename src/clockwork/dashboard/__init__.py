"""The dashboard: a page that shows what the server does now, and the stream of snapshots that the page draws.

- `assets` contains the files of the page.
- `snapshot` describes the server in steps, and `history` the requests of the last 5 minutes.
- `feed` makes one snapshot at a time for all viewers, and limits the time that snapshots take.
- `log_lines` keeps the last lines of the log.
"""
