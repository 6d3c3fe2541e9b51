"""Who decides where a goal goes: by its bounds, or as balancers do that know none. Pure functions of what is known of the members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from slice_ros.dispatch.member import Member
from slice_ros.dispatch.offer import Offer

COMFORT = 0.7
"""A goal that will have used no more than this share of its bounds is at ease: the better model is worth the rest."""

Offers = Callable[[Member], Offer]
"""Asks a member; a policy that needs to know less asks fewer."""


class DispatchPolicy(Protocol):
    @property
    def name(self) -> str: ...

    def rank(self, members: Sequence[Member], offers: Offers) -> list[Offer]:
        """Where a goal may go, the best place first; at least the first.

        Args:
            members: that are usable and can serve it; not empty.
        """


class Deadline:
    """To the member where it is in time, with most to spare, and no other is late for it; of those where it is at ease, to the one with
    the best model. If it is in time nowhere, to where it is least late."""

    name = "deadline"

    def rank(self, members: Sequence[Member], offers: Offers) -> list[Offer]:
        return sorted(map(offers, members), key=_merit)


def _merit(offer: Offer) -> tuple[int, float, float, float, float]:
    """The lower the better."""
    end_s, quality = offer.prediction.e2e_s, offer.member.quality
    if offer.fits and offer.use <= COMFORT:
        return 0, -quality, offer.use, end_s, -offer.cached
    if offer.fits:
        tier = 1
    elif offer.use <= 1.0:
        tier = 2
    else:
        tier = 3 if offer.prediction.is_safe else 4
    return tier, offer.use, end_s, -offer.cached, -quality


class RoundRobin:
    """To each in turn."""

    name = "round-robin"

    def __init__(self) -> None:
        self._turn = 0

    def rank(self, members: Sequence[Member], offers: Offers) -> list[Offer]:
        self._turn += 1
        return [offers(members[self._turn % len(members)])]


class LeastLoaded:
    """To the one with the fewest goals in hand."""

    name = "least-loaded"

    def rank(self, members: Sequence[Member], offers: Offers) -> list[Offer]:
        return [offers(min(members, key=lambda member: member.in_hand))]


class BestFirst:
    """To the best device, by the rank of its model and its speed, as long as its next step has a place; then to the next."""

    name = "best-device-first"

    def rank(self, members: Sequence[Member], offers: Offers) -> list[Offer]:
        ranked = sorted(members, key=lambda member: (-member.quality, _token_s(member)))
        free = (member for member in ranked if member.in_hand < _width(member))
        return [offers(next(free, None) or min(ranked, key=lambda member: member.in_hand / _width(member)))]


def _token_s(member: Member) -> float:
    assert member.report is not None
    return member.report.latency.step_s(1)


def _width(member: Member) -> int:
    assert member.report is not None
    return member.report.limits.max_batch


DISPATCH_POLICIES: dict[str, Callable[[], DispatchPolicy]] = {
    policy.name: policy for policy in (Deadline, RoundRobin, LeastLoaded, BestFirst)
}
"""By name."""
