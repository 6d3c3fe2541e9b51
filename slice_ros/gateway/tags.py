"""The SLO of a request, from wherever an agent can put it: headers, the body's ``slo``, vLLM's ``priority``, the model's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slice_ros.gateway.errors import ApiError
from slice_ros.parameters.presets import CLASSES, ON_MISS
from slice_ros.slo import DEFAULT_UTILITY, ServiceClass, Slo, SloError

PREFIX = "x-slo-"
PRIORITIES = 20
"""Beyond these a priority changes nothing any more: 2 ** 20 to one are enough."""


def _underscored(value: Any) -> Any:
    return value.lower().replace("-", "_") if isinstance(value, str) else value


Bound = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(min_length=1, max_length=256, pattern="^[^\\x00]*$")]


class Tags(BaseModel):
    """What one place says; the fields are the headers' names behind ``x-slo-``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    ttft_ms: Bound | None = None
    tpot_ms: Bound | None = None
    deadline_ms: Bound | None = None
    service_class: Annotated[Literal["real_time", "best_effort"], BeforeValidator(_underscored)] | None = Field(default=None, alias="class")
    on_miss: Annotated[Literal["continue", "abort"], BeforeValidator(_underscored)] | None = None
    utility: Bound | None = None
    preset: Name | None = None
    label: Name | None = None


def of_headers(headers: Iterable[tuple[str, str]]) -> Tags:
    """What a request's headers say; their names are in lower case.

    Raises:
        ApiError: 400, with the header.
    """
    given = {name.removeprefix(PREFIX).replace("-", "_"): value for name, value in headers if name.startswith(PREFIX)}
    try:
        return Tags.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = PREFIX + str(first["loc"][0]).replace("_", "-")
        if first["type"] == "extra_forbidden":
            known = ", ".join(PREFIX + (field.alias or name).replace("_", "-") for name, field in Tags.model_fields.items())
            raise ApiError(400, f"there is no header {name}; there are: {known}", code="unknown_header", param=name) from error
        message = f"{name} is {str(first['input'])[:40]!r}: {first['msg']}"
        raise ApiError(400, message, code="invalid_value", param=name) from error


def of_priority(priority: int | None) -> Tags:
    """vLLM's: 0 is usual, and what is lower comes first. Each step doubles or halves the weight against others of the class."""
    if not priority:
        return Tags()
    return Tags(utility=DEFAULT_UTILITY[ServiceClass.BEST_EFFORT] * 2.0 ** max(-PRIORITIES, min(PRIORITIES, -priority)))


def merged(*places: Tags) -> Tags:
    """Field by field what the first place says that says anything."""
    said = [place.model_dump(exclude_none=True) for place in reversed(places)]
    return Tags().model_copy(update={name: value for place in said for name, value in place.items()})


def slo_of(tags: Tags) -> Slo:
    """The SLO beside the preset.

    Raises:
        ApiError: 400, it contradicts itself.
    """
    try:
        return Slo(
            CLASSES[tags.service_class or "best_effort"],
            _seconds(tags.ttft_ms),
            _seconds(tags.tpot_ms),
            _seconds(tags.deadline_ms),
            tags.utility,
            ON_MISS[tags.on_miss or "default"],
        )
    except SloError as error:
        raise ApiError(400, str(error), code="invalid_slo", param="slo") from error


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1e3
