"""The daemon: reads tables, makes chunks of them, and serves these to trainers."""
