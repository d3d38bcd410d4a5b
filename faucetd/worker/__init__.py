"""The worker processes: fetch, prepare and publish, away from the daemon's loop."""
