"""Following a consumer: its facade for the commit engine, and all that passes through it.

A consumer is given a subclass of its own class, made once for each class, whose methods pass
everything on and keep its tracker up to date. A class, because `for` and `next` look special
methods up there; the consumer keeps its identity, and is an instance of everything that it was.

A `KafkaConsumer` is used on one thread (kafka-python, *Thread safety*). Rebalance listeners run on
the client's I/O thread in kafka-python 3, where a synchronous commit is refused but one can be
awaited; in 2.x they run in the thread that polls.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from functools import lru_cache, partial
from time import monotonic
from types import MethodType
from typing import TYPE_CHECKING, Any

from kafka.consumer import subscription_state
from kafka.structs import OffsetAndMetadata, TopicPartition

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import kafka_common
from hopspan.adapters.kafka.producer import CLIENT
from hopspan.interception import INTERCEPTED, subclass
from hopspan.offsets import TIMEOUT, Consumer, Registry, Tracker, UserCommit, on_answer
from hopspan.telemetry import binding_of, instrumenter_for

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hopspan.adapters.kafka_common import Routes
    from hopspan.delivery import Loop
    from hopspan.model import Endpoint
    from hopspan.offsets import Done, Frontier, Positions
    from hopspan.telemetry import Instrumenter

NOTHING_TAKEN: Any = (None, None)
STATE = "_hopspan_state"
"""The attribute in which a consumer keeps its state."""

registry: Registry = Registry()

_AWAITS = hasattr(subscription_state, "AsyncConsumerRebalanceListener")
_PUT_ASIDE = "_paused_partition_records"
_MOST_TOPICS = 256

Call = Callable[..., Any]
partition_named: Callable[[str, int], TopicPartition] = lru_cache(1_024)(TopicPartition)


class ConsumerState(Consumer):
    """One `KafkaConsumer`, as hopspan sees it."""

    client = CLIENT

    def __init__(self, native: Any, kind: Any) -> None:
        super().__init__(native)
        config = native.config
        self.kind: Any = kind
        """The consumer's own class: how to call the client without passing here again."""
        self.group: str | None = config.get("group_id")
        self.commits_by_itself: bool = bool(self.group and config.get("enable_auto_commit"))
        where = kafka_common.server(config.get("bootstrap_servers"))
        self.endpoint: Callable[[str], Endpoint] = lru_cache(_MOST_TOPICS)(
            partial(kafka_common.endpoint, where=where, group=self.group)
        )
        self.cluster_id: str | None = None
        """The cluster's id, once it is known."""
        self._cluster = getattr(getattr(native, "_client", None), "cluster", None)
        self._about: dict[str, Any] = {names.CLIENT_ID: config.get("client_id")}
        self.routes: Routes = kafka_common.records_of(self.endpoint, self._about)
        """The routes of its records."""
        self.inside: str = ""
        """The call of the client's own that goes on: `next`, or `loop` where our loop asks."""
        self.missed: bool = False
        """Whether this was made in the middle of the call that hands out."""
        self.taken: tuple[Any, Frontier | None] = NOTHING_TAKEN
        """The record that a loop of ours has just been given, and its partition's frontier."""
        self.loop: weakref.ref[Loop[Any]] | None = None
        self.tracker: Tracker = Tracker(self)

    def add_cluster(self, attributes: dict[str, Any]) -> None:
        """Add the cluster's id to a span, as soon as it is known. Private to the client."""
        cluster_id = getattr(self._cluster, "cluster_id", None)
        if cluster_id is not None:
            self.cluster_id = attributes[kafka_common.CLUSTER_ID] = cluster_id
            self._about[kafka_common.CLUSTER_ID] = cluster_id
            self.routes.clear()

    def partition_of(self, record: Any) -> TopicPartition:
        """The partition that a record is of."""
        return partition_named(record.topic, record.partition)

    def describe(self, partition: Any, done: Done) -> dict[str, Any]:
        """A record that is done, for the span of its commit."""
        attributes = {**self.routes[partition].particular, kafka_common.OFFSET: done.offset}
        if done.is_tombstone:
            attributes[kafka_common.TOMBSTONE] = True
        return attributes

    def commit(self, positions: Positions, seconds: float) -> None:
        """Commit, and wait."""
        self.kind.commit(self.native, _offsets(positions), seconds * 1000)

    def commit_async(
        self, positions: Positions, answered: Callable[[Any], None]
    ) -> Callable[[], bool]:
        """Commit without waiting."""
        # Answered by the callback: where the coordinator has to be looked up, the future is the
        # lookup's.
        future = self.kind.commit_async(
            self.native, _offsets(positions), lambda _, answer: answered(answer)
        )
        return lambda: getattr(future, "is_done", False)

    async def commit_awaited(self, positions: Positions) -> None:
        """Commit on the I/O loop of kafka-python 3."""
        await self.kind.commit_async(self.native, _offsets(positions))

    def seek(self, partition: Any, offset: int) -> None:
        """Go to an offset."""
        self.kind.seek(self.native, partition, offset)

    def pause(self, partition: Any) -> None:
        """Hand out nothing of a partition."""
        self.kind.pause(self.native, partition)

    def resume(self, partition: Any) -> None:
        """End a pause."""
        # kafka-python 3.0 never fetches on from what it has put aside while the partition was
        # paused, once another was read; and it is what lies before the seek.
        fetcher = getattr(self.native, "_fetcher", None)
        getattr(fetcher, _PUT_ASIDE, {}).pop(partition, None)
        self.kind.resume(self.native, partition)

    def paused(self) -> Collection[Any]:
        """The partitions that are paused."""
        paused: Collection[Any] = self.native.paused()
        return paused


def _offsets(positions: Positions) -> dict[Any, OffsetAndMetadata]:
    return {each: OffsetAndMetadata(at.offset, "", at.epoch) for each, at in positions.items()}


def state_of(consumer: Any) -> ConsumerState | None:
    """A consumer's state, if it is tracked."""
    return getattr(consumer, "__dict__", {}).get(STATE)


def track(consumer: Any) -> ConsumerState:
    """A consumer's state; tracked from now on if not before."""
    state = state_of(consumer)
    if state is None:
        kind: Any = type(consumer)
        state = consumer.__dict__[STATE] = ConsumerState(consumer, kind)
        try:
            follow(consumer, state)
            consumer.__class__ = _tracked(kind)
        except Exception:  # noqa: BLE001 - a subclass that cannot be derived from, say
            state.tracker.committer.is_off = True
            faults.report("following a consumer; nothing is committed for it")
        registry.add(consumer, state.tracker)
    return state


@lru_cache(maxsize=64)
def _tracked(kind: Any) -> type:
    return subclass(kind, {name: _passing(kind, name, each) for name, each in _METHODS.items()})


def _passing(kind: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that goes by way of `method`, which is given the state and the client's own."""
    original = getattr(kind, name)

    @functools.wraps(original, updated=())
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self.__dict__[STATE], MethodType(getattr(kind, name), self), *args, **kwargs)

    # Whatever looks at a method before it intercepts it is to see the client's.
    call.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    if hasattr(original, INTERCEPTED) or not hasattr(original, "__wrapped__"):
        del call.__wrapped__
    return call


# -- handing out -----------------------------------------------------------------------------------


def _given(args: Any, kwargs: Any, place: int, name: str) -> Any:
    """An argument of a call, however it was given; None if it was not."""
    return args[place] if len(args) > place else kwargs.get(name)


def _instead(args: Any, kwargs: Any, place: int, name: str, value: Any) -> tuple[Any, Any]:
    """The arguments of a call with another value for one of them, which stays in its place."""
    if len(args) > place:
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _poll(state: ConsumerState, poll: Call, *args: Any, **kwargs: Any) -> Any:
    tracker = state.tracker
    if not state.inside:
        tracker.run_pending()
    max_block, timeout_ms = tracker.max_block(), _given(args, kwargs, 0, "timeout_ms")
    if max_block is None or not isinstance(timeout_ms, int | float) or timeout_ms <= 0:
        records = poll(*args, **kwargs)
    else:

        def wait(seconds: float) -> Any:
            args_now, kwargs_now = _instead(args, kwargs, 0, "timeout_ms", seconds * 1000)
            return poll(*args_now, **kwargs_now)

        records = _poll_in_slices(state, wait, timeout_ms)
    if not state.inside and isinstance(records, dict):
        tracker.handed_out(records)
    return records


def _poll_in_slices(state: ConsumerState, poll: Callable[[float], Any], timeout_ms: float) -> Any:
    """Poll while there is something to do for what was handed out before."""
    tracker, deadline = state.tracker, monotonic() + timeout_ms / 1000
    while True:
        max_block, left = tracker.max_block(), max(0.0, deadline - monotonic())
        records = poll(left if max_block is None else min(left, max_block))
        if records or monotonic() >= deadline or getattr(state.native, "_closed", False):
            return records
        tracker.run_pending()


def _next(state: ConsumerState, following: Call) -> Any:
    state.tracker.run_pending()
    state.inside = "next"
    try:
        record = following()
    finally:
        state.inside = ""
    state.tracker.handed_out_one(record)
    return record


def runs_of_one(record: Any) -> dict[TopicPartition, list[Any]]:
    """A record as a poll would return it."""
    return {partition_named(record.topic, record.partition): [record]}


# -- the application's own commits -----------------------------------------------------------------


def _instrumenter(state: ConsumerState) -> Instrumenter | None:
    """The settings that hold for what the application does with a consumer by itself."""
    bound = binding_of(state.native)
    if bound is not None:
        return bound.instrumenter
    latest = state.tracker.committer.instrumenter
    if latest is None and hasattr(state.kind.poll, INTERCEPTED):
        return instrumenter_for("kafka")
    return latest


def _begin_commit(state: ConsumerState, offsets: Any) -> UserCommit | None:
    """The commit that is about to be sent; None for one that the client is about to refuse."""
    if not (offsets is None or isinstance(offsets, dict)):
        return None
    try:
        positions = offsets and {each: getattr(at, "offset", None) for each, at in offsets.items()}
        return state.tracker.user_commit(positions, _instrumenter(state))
    except Exception:  # noqa: BLE001 - the client is about to judge the arguments
        faults.report("reading what is committed")
        return None


def _commit(state: ConsumerState, send: Call, *args: Any, **kwargs: Any) -> Any:
    commit = _begin_commit(state, _given(args, kwargs, 0, "offsets"))
    try:
        result = send(*args, **kwargs)
    except Exception as error:
        if commit is not None:
            commit.failed(error)
        raise
    if commit is not None:
        commit.succeeded()
    return result


def _commit_async(state: ConsumerState, send: Call, *args: Any, **kwargs: Any) -> Any:
    callback = _given(args, kwargs, 1, "callback")
    commit = _begin_commit(state, _given(args, kwargs, 0, "offsets"))
    if commit is None or (callback is not None and not callable(callback)):
        return send(*args, **kwargs)
    answered = partial(on_answer, commit)
    if not _must_look_up(state.native):
        future = send(*args, **kwargs)
        future.add_callback(answered)
        future.add_errback(answered)
        return future
    theirs = callback or state.native.config.get("default_offset_commit_callback")

    # The future is the lookup's: only the callback hears of the commit.
    def both(committed: Any, answer: Any) -> None:
        answered(answer)
        if theirs is not None:
            theirs(committed, answer)

    args, kwargs = _instead(args, kwargs, 1, "callback", both)
    return send(*args, **kwargs)


def _must_look_up(consumer: Any) -> bool:
    """Whether the group's coordinator is not known just now. Private to the client."""
    unknown = getattr(getattr(consumer, "_coordinator", None), "coordinator_unknown", None)
    return bool(unknown()) if callable(unknown) else True


# -- moving about, and changing what is consumed ---------------------------------------------------


def _then(tell: Callable[..., None]) -> Callable[..., Any]:
    """A method that passes a call on and, when it has succeeded, tells its arguments."""

    def method(state: ConsumerState, call: Call, *args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        tell(state, *args, **kwargs)
        return result

    return method


def _sought_end(state: ConsumerState, *partitions: Any) -> None:
    for partition in partitions or list(state.tracker.partitions.frontiers):
        state.tracker.on_seek(partition, None)


_paused = _then(lambda state, *partitions: state.tracker.rewinding.hand_back_pause(partitions))


def _assign(state: ConsumerState, assign: Call, *args: Any, **kwargs: Any) -> Any:
    state.tracker.run_pending()
    state.tracker.committer.commit(wait=True)
    result = assign(*args, **kwargs)
    state.tracker.keep_only(state.native.assignment())
    return result


def _close(state: ConsumerState, close: Call, *args: Any, **kwargs: Any) -> Any:
    loop = state.loop() if state.loop is not None else None
    if loop is not None and state.is_here():  # closed elsewhere, its turn is lost
        loop.leave()
    began, timeout_ms = monotonic(), _given(args, kwargs, 1, "timeout_ms")
    is_limited = isinstance(timeout_ms, int | float)
    state.tracker.before_close(timeout_ms / 1000 if is_limited else TIMEOUT)
    if is_limited:
        left = max(0, timeout_ms - (monotonic() - began) * 1000)
        args, kwargs = _instead(args, kwargs, 1, "timeout_ms", left)
    return close(*args, **kwargs)


_METHODS: dict[str, Callable[..., Any]] = {
    "__next__": _next,
    "poll": _poll,
    "commit": _commit,
    "commit_async": _commit_async,
    "seek": _then(
        lambda state, partition, offset, *_, **__: state.tracker.on_seek(partition, offset)
    ),
    "seek_to_beginning": _then(_sought_end),
    "seek_to_end": _then(_sought_end),
    "pause": _paused,
    "resume": _paused,
    "subscribe": _then(lambda state, *_, **__: follow(state.native, state)),
    "assign": _assign,
    "unsubscribe": _assign,
    "close": _close,
}


# -- rebalances ------------------------------------------------------------------------------------


def follow(consumer: Any, state: ConsumerState) -> None:
    """Hear of the consumer's rebalances, before and after its own listener.

    The application's listener comes first, so that it can still finish what it is about. What is
    done is committed before a partition goes, and nothing after.
    """
    subscription: Any = getattr(consumer, "_subscription", None)
    # Private to the client.
    if not (hasattr(subscription, "rebalance_listener") and hasattr(subscription, "assignment")):
        faults.once(
            "this version of kafka-python does not let hopspan follow rebalances: records of "
            "revoked partitions may be committed; look for a newer hopspan"
        )
        return
    theirs = subscription.rebalance_listener
    if not isinstance(theirs, _Listener):
        kind = _AsyncListener if _AWAITS else _Listener
        subscription.rebalance_listener = kind(state.tracker, subscription, theirs)


class _Listener:
    """A rebalance listener around the application's (kafka-python 2)."""

    def __init__(self, tracker: Tracker, subscription: Any, theirs: Any) -> None:
        self._tracker = tracker
        self._subscription = subscription
        self._theirs = theirs

    def _kept(self) -> Mapping[TopicPartition, object]:
        """The client's state of each partition that it has just now."""
        return dict(self._subscription.assignment)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._tracker.on_assigned(self._kept())
        if self._theirs is not None:
            self._theirs.on_partitions_assigned(assigned)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        try:
            if self._theirs is not None:
                self._theirs.on_partitions_revoked(revoked)
        finally:
            self._tracker.committer.commit(wait=True)
            self._tracker.on_revoked(revoked, self._kept())


class _AsyncListener(_Listener):
    """The same for kafka-python 3, whose I/O loop awaits it."""

    async def on_partitions_assigned(  # type: ignore[override]
        self, assigned: Collection[TopicPartition]
    ) -> None:
        self._tracker.on_assigned(self._kept())
        await self._pass_on("on_partitions_assigned", assigned)

    async def on_partitions_revoked(  # type: ignore[override]
        self, revoked: Collection[TopicPartition]
    ) -> None:
        try:
            await self._pass_on("on_partitions_revoked", revoked)
        finally:
            await self._tracker.committer.commit_awaited(revoked)
            self._tracker.on_revoked(revoked, self._kept())

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        try:
            await self._pass_on("on_partitions_lost", lost)
        finally:
            self._tracker.revoke(lost, "lost")

    async def _pass_on(self, method: str, partitions: Collection[TopicPartition]) -> None:
        call = getattr(self._theirs, method, None)
        if call is not None:
            answer = call(partitions)
            if inspect.isawaitable(answer):
                await answer
