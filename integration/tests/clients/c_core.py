"""Calls layerd as programs on gRPC's C core do: by the path of its socket, with no option set."""

import sys

import grpc

channel = grpc.insecure_channel("unix:" + sys.argv[1])


def call(method, request):
    try:
        return grpc.StatusCode.OK, channel.unary_unary(method)(request, timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details().encode()


# Several calls: from the second on, the authority comes from the compression's table.
for attempt in range(3):
    code, answer = call("/grpc.health.v1.Health/Check", b"")
    assert (code, answer) == (grpc.StatusCode.OK, b"\x08\x01"), (attempt, code, answer)
    # Field 2 is the key.
    code, details = call("/containerd.services.snapshots.v1.Snapshots/Stat", b"\x12\x04none")
    assert code == grpc.StatusCode.NOT_FOUND and b"none" in details, (attempt, code, details)
channel = grpc.insecure_channel("unix:" + sys.argv[2])
for attempt in range(3):
    code, answer = call("/csi.v1.Identity/GetPluginInfo", b"")
    assert code == grpc.StatusCode.OK and b"csi.layerd.dev" in answer, (attempt, code, answer)
print(grpc.__version__)
