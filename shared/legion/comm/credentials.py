"""Mutual TLS 1.3 for gRPC, from a worker's identity.

grpcio has no option for the TLS version. Its cipher list, though, names TLS 1.2 suites only, and one that needs an
RSA certificate can never be agreed on with our ECDSA certificates: what is left is TLS 1.3, whose suites the list
does not touch. A test connects with a 1.2 client and is refused.
"""

import os

import grpc
from grpc._cython.cygrpc import reset_grpc_config_vars

from legion.identity import Identity

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
# gRPC's core read its variables when it was imported, by us or by anyone before us: it must look again.
reset_grpc_config_vars()

HANDSHAKE_S = 5
MESSAGE_BYTES = (1 << 21) + (1 << 13)  # a frame: its payload, header and framing


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Shows our certificate; wants one of the same authority from every caller."""
    return grpc.ssl_server_credentials(
        [(identity.key_pem, identity.certificate_pem)], identity.authority_pem, require_client_auth=True
    )


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(identity.authority_pem, identity.key_pem, identity.certificate_pem)


_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # What of the two is longer holds, and left to itself this one is a minute: so long a stopped peer went unnoticed.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # What a stream may send ahead of its reader. Left to itself gRPC lets it grow to many megabytes on a fast link,
    # for every stream; this much keeps 1 Gbit/s at 4 ms busy on one stream, and units come in several.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 19),
    ("grpc.experimental.tcp_max_read_chunk_size", 1 << 18),
]
SERVER_OPTIONS = [
    *_KEEPALIVE,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
    ("grpc.so_reuseport", 0),  # a second listener on the port must fail, not share
]
CHANNEL_OPTIONS = [
    *_KEEPALIVE,
    ("grpc.enable_retries", 0),  # the retry policy is in peers.py, once
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", HANDSHAKE_S * 1000),  # in truth, how long an attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]
