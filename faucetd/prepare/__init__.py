"""Prepare: from Arrow record batches to tensors, permuted, in the layout of a spec.

Knows nothing of warehouses, shared memory or gRPC.
"""
