"""Consumer groups as their coordinator sees them: members, generations, committed offsets.

The classic protocol: what is assigned to whom is the leader's business and only passes through.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from .logs import RefusedError
from .protocol import Error

_EMPTY, _PREPARING, _COMPLETING, _STABLE = (
    "Empty",
    "PreparingRebalance",
    "CompletingRebalance",
    "Stable",
)
Answer = dict[str, Any]


class Position(NamedTuple):
    """What a group committed for a partition."""

    offset: int
    leader_epoch: int
    metadata: str | None


class Member:
    """A consumer between its first join and its departure or expiry."""

    def __init__(self, identity: str, client_id: str) -> None:
        self.id, self.client_id = identity, client_id
        self.session = self.patience = 0.0
        self.protocols: dict[str, bytes] = {}
        self.assignment = b""
        self.joining = self.syncing = False
        self.joined: Answer | None = None
        self.synced: Answer | None = None
        self.deadline = 0.0

    @property
    def waits(self) -> bool:
        """Whether the coordinator owes it an answer, so that it cannot give a sign of life."""
        return self.joining or self.syncing

    def alive(self) -> None:
        self.deadline = time.monotonic() + self.session


class Group:
    def __init__(self, name: str, schedule: Callable[[float], None], join_delay: float) -> None:
        self.name, self._join_delay = name, join_delay
        self.state, self.generation = _EMPTY, 0
        self.protocol_type = self.protocol = ""
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self.positions: dict[tuple[str, int], Position] = {}
        self._announced: set[str] = set()  # were given a name, and did not come back with it yet
        self._schedule = schedule
        self._earliest = self._deadline = 0.0  # a rebalance waits so long at least and at most

    # Joining

    def join(self, request: SimpleNamespace, client_id: str, version: int) -> Member:
        """Take a member in; its `joined` is the answer, as soon as there is one."""
        protocols = {each.name: each.metadata for each in request.protocols}
        self._check_protocols(request, protocols)
        member = self._find_or_admit(request.member, client_id, version)
        known = member.protocols == protocols
        session = request.session_timeout / 1000
        patience = getattr(request, "rebalance_timeout", request.session_timeout) / 1000
        member.session, member.patience, member.protocols = session, patience, protocols
        self.protocol_type, member.joined = request.protocol_type, None
        follows = self.state == _STABLE and member.id != self.leader
        if known and (follows or self.state == _COMPLETING):
            member.joined = self._membership(member)
            self._touch(member)
            return member
        member.joining = True
        self.rebalance()
        return member

    def _check_protocols(self, request: SimpleNamespace, protocols: dict[str, bytes]) -> None:
        others = [other for other in self.members.values() if other.id != request.member]
        common = set(protocols).intersection(*(other.protocols for other in others))
        if not common or (others and request.protocol_type != self.protocol_type):
            raise RefusedError(Error.INCONSISTENT_GROUP_PROTOCOL)

    def _find_or_admit(self, identity: str, client_id: str, version: int) -> Member:
        if identity in self.members:
            return self.members[identity]
        if identity and identity not in self._announced:
            raise RefusedError(Error.UNKNOWN_MEMBER_ID)
        if not identity:
            identity = f"{client_id}-{uuid.uuid4()}"
            if version >= 4:
                self._announced.add(identity)
                raise MemberIdRequiredError(identity)
        self._announced.discard(identity)
        self.members[identity] = Member(identity, client_id)
        return self.members[identity]

    def rebalance(self) -> None:
        """Ask everybody to join again."""
        self._prepare()
        self.advance()

    def _prepare(self) -> None:
        if self.state == _PREPARING:
            return
        delay = self._join_delay if self.state == _EMPTY else 0.0
        self.state = _PREPARING
        for member in self.members.values():
            self._answer_sync(member, Error.REBALANCE_IN_PROGRESS)
        patience = max((member.patience for member in self.members.values()), default=0)
        self._earliest = time.monotonic() + delay
        self._deadline = time.monotonic() + patience
        self._schedule(delay)
        self._schedule(patience)

    def advance(self) -> None:
        """Expire who gave no sign of life; begin a generation when everybody is there."""
        now = time.monotonic()
        late = self.state == _PREPARING and now >= self._deadline
        for member in list(self.members.values()):
            if not member.waits and (member.deadline <= now or late):
                self._drop(member)
        complete = all(each.joining for each in self.members.values())
        if self.state == _PREPARING and complete and now >= self._earliest:
            self._begin()

    def _begin(self) -> None:
        self.generation += 1
        if not self.members:
            self.state, self.leader, self.protocol = _EMPTY, None, ""
            return
        self.state, self.protocol = _COMPLETING, self._elect_protocol()
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        for member in self.members.values():
            member.joining, member.assignment = False, b""
            member.joined = self._membership(member)
            self._touch(member)

    def _elect_protocol(self) -> str:
        """Of those that all members have, the one most of them put first."""
        lists = [list(member.protocols) for member in self.members.values()]
        common = [name for name in lists[0] if all(name in names for names in lists)]
        votes = [next(name for name in names if name in common) for names in lists]
        return max(common, key=votes.count)

    def _membership(self, member: Member) -> Answer:
        leads = member.id == self.leader
        return {
            "throttle": 0,
            "error": Error.NONE,
            "generation": self.generation,
            "protocol": self.protocol,
            "leader": self.leader,
            "member": member.id,
            "members": [
                {"member": each.id, "metadata": each.protocols[self.protocol]}
                for each in self.members.values()
                if leads
            ],
        }

    # Members of a generation

    def sync(self, request: SimpleNamespace) -> Member:
        """Take the leader's plan, or a follower's question for it; `synced` is the answer."""
        member = self._member(request.member, request.generation)
        if self.state == _PREPARING:
            raise RefusedError(Error.REBALANCE_IN_PROGRESS)
        member.synced, member.syncing = None, True
        if self.state == _COMPLETING and member.id == self.leader:
            plan = {each.member: each.assignment for each in request.assignments}
            for each in self.members.values():
                each.assignment = plan.get(each.id, b"")
            self.state = _STABLE
        if self.state == _STABLE:
            for each in self.members.values():
                self._answer_sync(each, Error.NONE)
        return member

    def _answer_sync(self, member: Member, error: Error) -> None:
        if member.syncing:
            member.syncing = False
            assignment = b"" if error else member.assignment
            member.synced = {"throttle": 0, "error": error, "assignment": assignment}
            self._touch(member)

    def heartbeat(self, request: SimpleNamespace) -> None:
        self._touch(self._member(request.member, request.generation))
        if self.state == _PREPARING:
            raise RefusedError(Error.REBALANCE_IN_PROGRESS)

    def leave(self, identity: str) -> None:
        if identity not in self.members:
            raise RefusedError(Error.UNKNOWN_MEMBER_ID)
        self._drop(self.members[identity])
        self.advance()

    def evict(self, client_id: str | None) -> None:
        """Forget the members with this client's name, or all, as if their session had run out."""
        for member in list(self.members.values()):
            if client_id in (None, member.client_id):
                self._drop(member)
        self.advance()

    def _drop(self, member: Member) -> None:
        del self.members[member.id]
        if member.syncing:
            refusal = {"throttle": 0, "error": Error.UNKNOWN_MEMBER_ID, "assignment": b""}
            member.syncing, member.synced = False, refusal
        if member.joining:
            member.joining, member.joined = False, not_joined(member.id, Error.UNKNOWN_MEMBER_ID)
        self._prepare()

    def _member(self, identity: str, generation: int) -> Member:
        if identity not in self.members:
            raise RefusedError(Error.UNKNOWN_MEMBER_ID)
        if generation != self.generation:
            raise RefusedError(Error.ILLEGAL_GENERATION)
        return self.members[identity]

    def _touch(self, member: Member) -> None:
        member.alive()
        self._schedule(member.session)

    def revive(self) -> None:
        """The coordinator was away: nobody could give a sign of life."""
        for member in self.members.values():
            self._touch(member)

    # Offsets

    def check_commit(self, identity: str, generation: int) -> None:
        """Whether who commits may: a member of this generation, or anybody while none is there."""
        if generation < 0 and not identity and not self.members:
            return
        self._touch(self._member(identity, generation))
        if self.state == _COMPLETING:
            raise RefusedError(Error.REBALANCE_IN_PROGRESS)

    def forget(self, topic: str) -> None:
        self.positions = {at: each for at, each in self.positions.items() if at[0] != topic}


class MemberIdRequiredError(RefusedError):
    """A newcomer is to come again under the name it was given."""

    def __init__(self, identity: str) -> None:
        super().__init__(Error.MEMBER_ID_REQUIRED)
        self.identity = identity


def not_joined(identity: str, error: Error) -> Answer:
    return {
        "throttle": 0,
        "error": error,
        "generation": -1,
        "protocol": "",
        "leader": "",
        "member": identity,
        "members": [],
    }
