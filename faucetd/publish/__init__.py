"""Publish: from tensors to sealed segments.

Knows nothing of warehouses, torch or gRPC.
"""
