"""A small Kafka in this process, for real Kafka clients to connect to over the loopback.

    with FakeKafka() as broker:
        broker.create_topic("orders", partitions=3)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        ...
        assert broker.until(lambda: len(broker.records("orders")) == 1)
        assert broker.committed("billing") == {("orders", 0): 1}

Rules:

1. What it does, it does as Kafka does for clients of those versions (see `protocol`): `test_kafka.py`
   runs its scenarios on both (of the real ones, on 4.1).
2. What it cannot do, it does not announce; a client that asks all the same is cut off, and `close`
   raises it: no test passes for being ignored.
3. One thread for each broker. State changes a whole request at a time, under one lock; the hooks
   take it too.
4. A client's commits and departures come on their own time, so a test waits with `until`. Nothing
   here sleeps.
5. After `close` no thread, socket or event loop is left, and a failure in here is raised.
6. Offsets, generations, producer ids and leader epochs are the same in every run; only the names of
   group members are random, as their clients expect.

Deliberately absent: more than one node, replication and changes of leaders (all are of one epoch),
authentication, TLS, quotas, retention, other codecs than gzip, fetch sessions (every fetch is a full
one), static group members, the group protocol of KIP-848, configurations, and consumers from before
0.11 (producers may be older). A topic's log begins at 0 for ever. Transactions do not expire.

Layers: `wire` (connections, frames), `handlers` (requests), `state` (everything), `groups`, `logs`
(partitions), `records` (batches), `protocol` (versions, schemas), `codec` (bytes).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, final

from .handlers import CLUSTER, NODE, Handlers
from .logs import LEADER_EPOCH
from .protocol import APIS, Error
from .records import Headers, Record
from .state import Commit, Fault, Request, State
from .wire import Connection

__all__ = ["CLUSTER", "LEADER_EPOCH", "NODE", "Commit", "Error", "FakeKafka", "Record", "Request"]

_HOST = "127.0.0.1"
_NAMES = {api.name for api in APIS.values()}


@final
class FakeKafka:
    """A broker on an ephemeral port, from construction until `close`.

    Topics that clients or hooks name come into being with `partitions` partitions. The first
    generation of a group begins `join_delay` seconds after its first member has come. At once, a
    client (kafka-python 3) may not know the partitions of its topics yet, is given none, and joins again.

    The hooks may be called from any thread.
    """

    def __init__(self, partitions: int = 1, join_delay: float = 0.0) -> None:
        listener = socket.create_server((_HOST, 0))
        self.port: int = listener.getsockname()[1]
        self.bootstrap = f"{_HOST}:{self.port}"
        self.cluster_id = CLUSTER
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_failure)
        self._state = State(self._loop, partitions, join_delay)
        self._handlers = Handlers(self._state, _HOST, self.port)
        self._stopping = asyncio.Event()
        self._connections: set[Connection] = set()
        self._accepting: set[asyncio.Task[Any]] = set()
        self._failures: list[dict[str, Any]] = []
        self._listener: socket.socket | None = listener
        self._thread = threading.Thread(target=self._run, name="FakeKafka", daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeKafka:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection and stop; raise what went wrong inside, if anything. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        if self._failures:
            failure = self._failures.pop(0)
            cause = failure.get("exception")
            raise RuntimeError(f"the fake broker failed: {failure['message']}") from cause

    # What a test can see

    @property
    def log(self) -> list[Request]:
        """Requests as they came in on the wire, from all connections; may be cleared."""
        return self._state.log

    def requests(self, api: str) -> list[Request]:
        """Those of the log for one API, by its name: "Produce", "OffsetCommit"."""
        _check_name(api)
        with self._state.changed:
            return [request for request in self._state.log if request.api == api]

    @property
    def commits(self) -> list[Commit]:
        """Offset commits in the order they came, a line for each partition; may be cleared.

        Those of a transaction are not among them: they are requests of another kind, in the log.
        """
        return self._state.commits

    @property
    def topics(self) -> dict[str, int]:
        """The topics that there are, with how many partitions."""
        with self._state.changed:
            return {name: len(partitions) for name, partitions in self._state.topics.items()}

    def records(self, topic: str, partition: int | None = None) -> list[Record]:
        """What `topic` holds, partition by partition, or one partition; KeyError for no such topic.

        Records of open and aborted transactions are among them.
        """
        with self._state.changed:
            partitions = self._state.topics[topic]
            chosen = partitions if partition is None else [partitions[partition]]
            return [record for each in chosen for record in each.records()]

    def end(self, topic: str, partition: int = 0) -> int:
        """The offset that the next record gets: the high watermark."""
        with self._state.changed:
            return self._state.topics[topic][partition].end

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """The offsets `group` has committed, by topic and partition."""
        with self._state.changed:
            found = self._state.groups.get(group)
            positions = found.positions if found else {}
            return {where: position.offset for where, position in positions.items()}

    def members(self, group: str) -> list[str]:
        """The client ids of the members of `group`, in the order of their arrival."""
        with self._state.changed:
            found = self._state.groups.get(group)
            return [member.client_id for member in found.members.values()] if found else []

    def generation(self, group: str) -> int:
        """How often `group` has been given its partitions anew; 0 before the first time."""
        with self._state.changed:
            found = self._state.groups.get(group)
            return found.generation if found else 0

    def group_state(self, group: str) -> str:
        """In Kafka's words: Empty, PreparingRebalance, CompletingRebalance, Stable; Dead for none."""
        with self._state.changed:
            found = self._state.groups.get(group)
            return found.state if found else "Dead"

    def connections(self) -> int:
        """How many connections are open."""
        with self._state.changed:
            return len(self._connections)

    def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait until `condition`, made of these hooks, holds; False after `timeout` seconds.

        It is looked at when something has happened in here, and not for what only a client knows.
        """
        with self._state.changed:
            return self._state.changed.wait_for(condition, timeout)

    # What a test can put there

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create an empty topic; one of this name is gone with all its records."""
        with self._state.changed:
            self._state.create(topic, partitions)
            self._state.turn()

    def append(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: Headers = (),
        *,
        partition: int = 0,
        timestamp: int | None = None,
    ) -> int:
        """Store a record with these very bytes and return its offset.

        `timestamp` is in milliseconds since the epoch, and now by default.
        """
        with self._state.changed:
            offset = self._state.topic(topic)[partition].add(key, value, headers, timestamp)
            self._state.turn()
            return offset

    def skip(self, topic: str, count: int = 1, partition: int = 0) -> None:
        """Use up offsets for no record, as the end of a transaction does."""
        with self._state.changed:
            self._state.topic(topic)[partition].skip(count)
            self._state.turn()

    def compact(self, topic: str, *offsets: int, partition: int = 0) -> None:
        """Take the records at these offsets out; KeyError where there are none."""
        with self._state.changed:
            self._state.topics[topic][partition].compact(set(offsets))
            self._state.turn()

    # What a test can provoke

    def fail_produces(
        self, error: int, times: int = 1, topic: str | None = None, *, stored: bool = False
    ) -> None:
        """Answer the next produce requests, or those to `topic`, with an error code.

        With `stored`, their records are there all the same, as when only the acknowledgement failed.
        """
        self._plan("Produce", Fault(error, topic, stored), times)

    def fail_commits(
        self, error: int, times: int = 1, group: str | None = None, *, stored: bool = False
    ) -> None:
        """Answer the next offset commits, or those of `group`, with an error code.

        With `stored`, the offsets are committed all the same.
        """
        self._plan("OffsetCommit", Fault(error, group, stored), times)

    def silence(
        self, api: str, times: int = 1, about: str | None = None, *, happens: bool = False
    ) -> None:
        """Never answer the next requests of this API, or those about a topic or group.

        Nor what comes after them on their connection: the client has to give it up. With `happens`,
        they have their effect.
        """
        self._plan(api, Fault(None, about, happens), times)

    def hold(self, api: str) -> None:
        """From now on keep requests of this API waiting, unhandled; they are in the log."""
        _check_name(api)
        with self._state.changed:
            self._state.held.add(api)

    def release(self, api: str) -> None:
        """Handle what was held, and go on as usual."""
        with self._state.changed:
            self._state.held.remove(api)
            self._state.turn()

    def rebalance(self, group: str) -> None:
        """Have the members join again: they hear of it with their next heartbeat."""
        with self._state.changed:
            self._state.groups[group].rebalance()
            self._state.turn()

    def evict(self, group: str, client_id: str | None = None) -> None:
        """Forget members, those with this client id or all, as if their session had run out."""
        with self._state.changed:
            self._state.groups[group].evict(client_id)
            self._state.turn()

    def cut_connections(self) -> None:
        """Close every socket without a word; return when no connection is left of those there were."""
        with self._state.changed:
            cut = set(self._connections)
            for connection in cut:
                self._loop.call_soon_threadsafe(connection.cut)
            self._state.changed.wait_for(lambda: not cut & self._connections)

    def stop(self) -> None:
        """Go down: nobody can connect, and everybody is cut off. What is stored stays."""
        with self._state.changed:
            self._state.stopped = True
            self._loop.call_soon_threadsafe(self._unlisten)
            self._state.changed.wait_for(lambda: not self._connections and self._listener is None)

    def start(self) -> None:
        """Come back on the same port; group members have the time of a session to report."""
        listener = socket.create_server((_HOST, self.port))
        with self._state.changed:
            self._state.stopped = False
            for group in self._state.groups.values():
                group.revive()
            self._listener = listener
            self._loop.call_soon_threadsafe(self._listen, listener)

    def _plan(self, api: str, fault: Fault, times: int) -> None:
        _check_name(api)
        with self._state.changed:
            self._state.faults.setdefault(api, []).extend([fault] * times)

    # The thread

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        if self._listener is not None:
            self._listen(self._listener)
        await self._stopping.wait()
        self._unlisten()
        while self._connections or self._accepting:
            self._cut_all()
            await asyncio.sleep(0)

    def _listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self._cut_all()
        with self._state.changed:
            self._state.changed.notify_all()

    def _cut_all(self) -> None:
        for connection in self._connections:
            connection.cut()

    def _accept(self, listener: socket.socket) -> None:
        # By hand: an asyncio server that is closed while it accepts leaves the socket open.
        client, _ = listener.accept()
        connect = self._loop.connect_accepted_socket(self._connect, client)
        task = self._loop.create_task(connect)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def _connect(self) -> Connection:
        return Connection(self._state, self._handlers, self._connections)

    def _on_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(context)


def _check_name(api: str) -> None:
    if api not in _NAMES:
        raise ValueError(f"no API is called {api!r}; there are {', '.join(sorted(_NAMES))}")
