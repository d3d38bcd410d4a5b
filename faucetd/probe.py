"""Asks a daemon, by gRPC's health service, whether it serves. Cheap enough for an exec probe.

It imports neither torch nor pyarrow, and needs no session: the health service has no token.
"""

from __future__ import annotations

from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faucet_client.address import Address, why_unreachable
from faucet_client.errors import DaemonUnreachable

Health = Literal["serving", "not serving"]


def probe(address: Address, timeout_s: float) -> Health:
    """Whether the daemon at `address` serves, or is just starting or stopping.

    Raises:
        DaemonUnreachable: nobody listens there, or nobody answers within `timeout_s`.
    """
    with grpc.insecure_channel(address.grpc_target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise DaemonUnreachable(
                    f"the daemon at {address} does not answer within {timeout_s:g} s; look at its "
                    "log, and whether the machine has memory and processor time left"
                ) from None
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise DaemonUnreachable(why_unreachable(address)) from None
            raise DaemonUnreachable(
                f"what listens at {address} is not a faucetd that answers: {error.details()}"
            ) from None
    serving = reply.status == health_pb2.HealthCheckResponse.SERVING
    return "serving" if serving else "not serving"
