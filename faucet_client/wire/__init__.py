"""The wire: how a process talks with the daemon, as plain values.

The only package of the client that knows protobuf. There are three ways, all of them Unix sockets:

- `channel`: calls by gRPC: open a dataset, start a reader, ask for the status.
- `handoff`: the session's connection, which proves who we are, and ends leases.
- `conduit`: a connection for each reader, down which its grants come with their descriptors.

A connection belongs to the process that made it; session.py sees to that.
"""
