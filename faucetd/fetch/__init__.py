"""Fetch: from a warehouse table or query to Arrow record batches with a resume position.

Knows nothing of torch, shared memory or gRPC.
"""
