"""What this broker speaks: error codes, and each API with its versions and schemas.

The versions are the newest of the old encoding that every client from kafka-python 2.2 on takes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

from .codec import Kind, pack, schema


class Error(enum.IntEnum):
    """The error codes that this broker gives by itself; tests may have it give any other."""

    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    UNKNOWN_MEMBER_ID = 25
    REBALANCE_IN_PROGRESS = 27
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    MEMBER_ID_REQUIRED = 79


class Api(NamedTuple):
    key: int
    name: str
    versions: range
    request: Kind
    response: Kind


_TXN = "transactional_id:str producer_id:i64 producer_epoch:i16"
_RESULTS = "topics:[name:str partitions:[index:i32 error:i16]]"

# fmt: off
_SPOKEN = (
    (0, "Produce", 0, 7,
     "transactional_id@3:str acks:i16 timeout:i32 topics:[name:str partitions:[index:i32 records:bytes]]",
     "topics:[name:str partitions:[index:i32 error:i16 base_offset:i64 append_time@2:i64"
     " log_start@5:i64]] throttle@1:i32"),
    (1, "Fetch", 4, 10,
     "replica:i32 max_wait:i32 min_bytes:i32 max_bytes:i32 isolation:i8 session@7:i32"
     " session_epoch@7:i32 topics:[name:str partitions:[index:i32 current_epoch@9:i32 offset:i64"
     " log_start@5:i64 max_bytes:i32]] forgotten@7:[name:str partitions:[i32]]",
     "throttle:i32 error@7:i16 session@7:i32 topics:[name:str partitions:[index:i32 error:i16"
     " high_watermark:i64 last_stable:i64 log_start@5:i64"
     " aborted:[producer_id:i64 first_offset:i64] records:bytes]]"),
    (2, "ListOffsets", 1, 4,
     "replica:i32 isolation@2:i8 topics:[name:str partitions:[index:i32 current_epoch@4:i32"
     " timestamp:i64]]",
     "throttle@2:i32 topics:[name:str partitions:[index:i32 error:i16 timestamp:i64 offset:i64"
     " leader_epoch@4:i32]]"),
    (3, "Metadata", 0, 7,
     "topics:[str] create@4:bool",
     "throttle@3:i32 brokers:[node:i32 host:str port:i32 rack@1:str] cluster@2:str"
     " controller@1:i32 topics:[error:i16 name:str internal@1:bool partitions:[error:i16 index:i32"
     " leader:i32 leader_epoch@7:i32 replicas:[i32] isr:[i32] offline@5:[i32]]]"),
    (8, "OffsetCommit", 2, 6,
     "group:str generation:i32 member:str retention@2-4:i64 topics:[name:str partitions:["
     "index:i32 offset:i64 leader_epoch@6:i32 metadata:str]]",
     f"throttle@3:i32 {_RESULTS}"),
    (9, "OffsetFetch", 1, 5,
     "group:str topics:[name:str partitions:[i32]]",
     "throttle@3:i32 topics:[name:str partitions:[index:i32 offset:i64 leader_epoch@5:i32"
     " metadata:str error:i16]] error@2:i16"),
    (10, "FindCoordinator", 0, 2,
     "key:str key_type@1:i8",
     "throttle@1:i32 error:i16 message@1:str node:i32 host:str port:i32"),
    (11, "JoinGroup", 0, 4,
     "group:str session_timeout:i32 rebalance_timeout@1:i32 member:str protocol_type:str"
     " protocols:[name:str metadata:bytes]",
     "throttle@2:i32 error:i16 generation:i32 protocol:str leader:str member:str"
     " members:[member:str metadata:bytes]"),
    (12, "Heartbeat", 0, 2,
     "group:str generation:i32 member:str",
     "throttle@1:i32 error:i16"),
    (13, "LeaveGroup", 0, 2,
     "group:str member:str",
     "throttle@1:i32 error:i16"),
    (14, "SyncGroup", 0, 2,
     "group:str generation:i32 member:str assignments:[member:str assignment:bytes]",
     "throttle@1:i32 error:i16 assignment:bytes"),
    (15, "DescribeGroups", 0, 3,
     "groups:[str] operations@3:bool",
     "throttle@1:i32 groups:[error:i16 group:str state:str protocol_type:str protocol:str"
     " members:[member:str client_id:str host:str metadata:bytes assignment:bytes]"
     " operations@3:i32]"),
    (16, "ListGroups", 0, 2,
     "",
     "throttle@1:i32 error:i16 groups:[group:str protocol_type:str]"),
    (18, "ApiVersions", 0, 4,
     "",  # that of 3 and 4 is not looked at, and their answer is written by hand
     "error:i16 apis:[key:i16 first:i16 last:i16] throttle@1:i32"),
    (19, "CreateTopics", 0, 3,
     "topics:[name:str partitions:i32 replication:i16 assignments:[index:i32 brokers:[i32]]"
     " configs:[name:str value:str]] timeout:i32 validate_only@1:bool",
     "throttle@2:i32 topics:[name:str error:i16 message@1:str]"),
    (20, "DeleteTopics", 0, 3,
     "topics:[str] timeout:i32",
     "throttle@1:i32 topics:[name:str error:i16]"),
    (22, "InitProducerId", 0, 1,
     "transactional_id:str timeout:i32",
     "throttle:i32 error:i16 producer_id:i64 producer_epoch:i16"),
    (23, "OffsetForLeaderEpoch", 0, 3,
     "replica@3:i32 topics:[name:str partitions:[index:i32 current_epoch@2:i32 leader_epoch:i32]]",
     "throttle@2:i32 topics:[name:str partitions:[error:i16 index:i32 leader_epoch@1:i32"
     " end_offset:i64]]"),
    (24, "AddPartitionsToTxn", 0, 1,
     f"{_TXN} topics:[name:str partitions:[i32]]",
     f"throttle:i32 {_RESULTS}"),
    (25, "AddOffsetsToTxn", 0, 1,
     f"{_TXN} group:str",
     "throttle:i32 error:i16"),
    (26, "EndTxn", 0, 1,
     f"{_TXN} commit:bool",
     "throttle:i32 error:i16"),
    (28, "TxnOffsetCommit", 0, 2,
     "transactional_id:str group:str producer_id:i64 producer_epoch:i16 topics:[name:str"
     " partitions:[index:i32 offset:i64 leader_epoch@2:i32 metadata:str]]",
     f"throttle:i32 {_RESULTS}"),
    (42, "DeleteGroups", 0, 1,
     "groups:[str]",
     "throttle:i32 groups:[group:str error:i16]"),
)
# fmt: on

APIS = {
    key: Api(key, name, range(first, last + 1), schema(request), schema(response))
    for key, name, first, last, request, response in _SPOKEN
}


def spoken() -> list[dict[str, int]]:
    """What is told to a client that asks which versions there are."""
    return [
        {"key": api.key, "first": api.versions.start, "last": api.versions.stop - 1}
        for api in APIS.values()
    ]


def encode(api: Api, version: int, answer: Mapping[str, Any]) -> bytes:
    if api.key == 18 and version >= 3:
        return _compactly(answer)
    return api.response.write(answer, version)


def _compactly(answer: Mapping[str, Any]) -> bytes:
    """The answer to ApiVersions in the encoding of newer clients, who all begin with it."""
    listed = [b"".join(pack("i16", number) for number in api.values()) for api in answer["apis"]]
    # The count is one more than it is; a zero at the end of each structure is "no tags".
    count = bytes([len(listed) + 1])
    structures = b"".join(each + b"\0" for each in listed)
    return pack("i16", answer["error"]) + count + structures + pack("i32", 0) + b"\0"
