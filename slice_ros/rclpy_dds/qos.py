"""Quality of service: how much is kept, whether it is delivered for certain, and whether late joiners get it."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

from slice_ros.rclpy_dds.duration import Duration

DEFAULT_DEPTH = 10


class InvalidQoSProfileException(Exception):
    """A profile contradicts itself."""


class HistoryPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class DurabilityPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class LivelinessPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


QoSHistoryPolicy = HistoryPolicy
QoSReliabilityPolicy = ReliabilityPolicy
QoSDurabilityPolicy = DurabilityPolicy
QoSLivelinessPolicy = LivelinessPolicy


class QoSProfile:
    """What an endpoint offers or asks for.

    Args:
        history: keep the last ``depth`` messages, or all.
        depth: messages kept; enough by itself.
        reliability: deliver for certain, or as it comes.
        durability: keep messages for late joiners, or not.
        lifespan: age after which a message is dropped; zero = never.
        deadline: longest time between messages; zero = no bound.
        liveliness: how an endpoint shows that it lives.
        liveliness_lease_duration: silence after which it counts as dead; zero = never.

    Raises:
        InvalidQoSProfileException: neither history nor depth was given, or KEEP_LAST without depth.
    """

    def __init__(
        self,
        *,
        history: HistoryPolicy | None = None,
        depth: int | None = None,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        lifespan: Duration | None = None,
        deadline: Duration | None = None,
        liveliness: LivelinessPolicy = LivelinessPolicy.SYSTEM_DEFAULT,
        liveliness_lease_duration: Duration | None = None,
        avoid_ros_namespace_conventions: bool = False,
    ) -> None:
        if history is None:
            if depth is None:
                raise InvalidQoSProfileException("History and/or depth settings are required.")
            history = HistoryPolicy.KEEP_LAST
        if history == HistoryPolicy.KEEP_LAST and depth is None:
            raise InvalidQoSProfileException("History set to KEEP_LAST without a depth setting.")
        if depth is not None and depth < 0:
            raise ValueError(f"depth is {depth}; it must be 0 or more")
        self.history = HistoryPolicy(history)
        self.depth = depth or 0
        self.reliability = ReliabilityPolicy(reliability)
        self.durability = DurabilityPolicy(durability)
        self.lifespan = lifespan or Duration()
        self.deadline = deadline or Duration()
        self.liveliness = LivelinessPolicy(liveliness)
        self.liveliness_lease_duration = liveliness_lease_duration or Duration()
        self.avoid_ros_namespace_conventions = avoid_ros_namespace_conventions

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, QoSProfile) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"QoSProfile({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


qos_profile_default = QoSProfile(depth=DEFAULT_DEPTH)
qos_profile_system_default = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT, reliability=ReliabilityPolicy.SYSTEM_DEFAULT, durability=DurabilityPolicy.SYSTEM_DEFAULT
)
qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = QoSProfile(depth=10)
qos_profile_parameters = QoSProfile(depth=1000)
qos_profile_parameter_events = QoSProfile(depth=1000)
qos_profile_action_status_default = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
qos_profile_rosout_default = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=10))


class QoSPresetProfiles(Enum):
    """The presets by name."""

    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default


def profile_of(qos_or_depth: QoSProfile | int) -> QoSProfile:
    """A profile, or the default one with that depth.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(qos_or_depth, QoSProfile):
        return qos_or_depth
    if isinstance(qos_or_depth, bool) or not isinstance(qos_or_depth, int):
        raise TypeError(f"{qos_or_depth!r} is neither a QoSProfile nor a depth")
    if qos_or_depth < 0:
        raise ValueError(f"depth is {qos_or_depth}; it must be 0 or more")
    return QoSProfile(depth=qos_or_depth)


def to_dds(profile: QoSProfile, user_data: str) -> Any:
    """Cyclone's policies for a profile, as rmw_cyclonedds sets them; system defaults are Cyclone's."""
    from slice_ros.rclpy_dds.dds import INFINITY_NS, Policy, Qos

    def ns(duration: Duration) -> int:
        return duration.nanoseconds or INFINITY_NS

    keep_all = profile.history == HistoryPolicy.KEEP_ALL
    history = Policy.History.KeepAll if keep_all else Policy.History.KeepLast(profile.depth or 1)
    policies = [
        history,
        Policy.Reliability.BestEffort
        if profile.reliability == ReliabilityPolicy.BEST_EFFORT
        else Policy.Reliability.Reliable(max_blocking_time=INFINITY_NS),
        Policy.WriterDataLifecycle(autodispose=False),
        Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
        Policy.Liveliness.ManualByTopic(ns(profile.liveliness_lease_duration))
        if profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
        else Policy.Liveliness.Automatic(ns(profile.liveliness_lease_duration)),
        Policy.Userdata(data=user_data.encode()),
    ]
    if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        policies += [
            Policy.Durability.TransientLocal,
            Policy.DurabilityService(cleanup_delay=0, history=history, max_samples=-1, max_instances=-1, max_samples_per_instance=-1),
        ]
    else:
        policies.append(Policy.Durability.Volatile)
    if profile.lifespan.nanoseconds:
        policies.append(Policy.Lifespan(ns(profile.lifespan)))
    if profile.deadline.nanoseconds:
        policies.append(Policy.Deadline(ns(profile.deadline)))
    return Qos(*policies)
