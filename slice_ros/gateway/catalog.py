"""Names of models: the server's one as it is, with each SLO preset, and with each LoRA adapter."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from slice_ros.gateway.errors import ApiError
from slice_ros.gateway.link import Link
from slice_ros.parameters.presets import PREFIX

DEFAULT = "default"
FRESH_S = 1.0
"""A name that is unknown is looked for anew after so long."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server has.

    Args:
        model: name of its model's file, without the ending; empty is not known.
        presets: names of its SLO presets.
        adapters: names of its LoRA adapters.
    """

    model: str = ""
    presets: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """Names to choose from; a preset goes with an adapter, too."""
        names = [DEFAULT, *(f"{DEFAULT}:{preset}" for preset in self.presets)]
        return [*names, *([self.model] if self.model else []), *self.adapters]

    def find(self, name: str) -> tuple[str, str] | None:
        """(adapter, preset) that a model's name means, each empty where there is none; ``None`` where there is no such model."""
        plain = {DEFAULT: "", self.model: "", **{adapter: adapter for adapter in self.adapters}}
        for base, adapter in plain.items():
            if base and name == base:
                return adapter, ""
            if base and name.startswith(f"{base}:") and name[len(base) + 1 :] in self.presets:
                return adapter, name[len(base) + 1 :]
        return None


class Catalog:
    """What the server has, as it was asked last."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._offer = Offer()
        self._asked_s = -FRESH_S

    async def offer(self) -> Offer:
        """What the server has now.

        Raises:
            ApiError: 503, it does not answer.
        """
        names = await self._link.parameters(PREFIX.rstrip("."))
        status = await self._link.next_status()
        self._offer = Offer(
            self._offer.model if status is None else PurePath(status.model).stem,
            tuple(sorted({name.removeprefix(PREFIX).rpartition(".")[0] for name in names})),
            self._offer.adapters if status is None else tuple(status.adapters),
        )
        self._asked_s = time.monotonic()
        return self._offer

    async def find(self, name: str) -> tuple[str, str]:
        """(adapter, preset) that a model's name means.

        Raises:
            ApiError: 404, there is none of the name; 503, the server does not answer.
        """
        found = self._offer.find(name)
        if found is None and time.monotonic() - self._asked_s >= FRESH_S:
            found = (await self.offer()).find(name)
        if found is None:
            message = f"there is no model {name[:80]!r}; there are: {', '.join(self._offer.models)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return found


def described(name: str) -> dict[str, Any]:
    """A model as ``/v1/models`` lists it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "slice_ros"}
