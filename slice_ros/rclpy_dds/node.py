"""Nodes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from slice_ros.rclpy_dds import arguments, logging, messages, names
from slice_ros.rclpy_dds.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from slice_ros.rclpy_dds.client import Client
from slice_ros.rclpy_dds.clock import Clock, ROSClock
from slice_ros.rclpy_dds.context import Context
from slice_ros.rclpy_dds.dds import Endpoint
from slice_ros.rclpy_dds.exceptions import NotInitializedException
from slice_ros.rclpy_dds.graph import NodeInfo
from slice_ros.rclpy_dds.guard_condition import GuardCondition
from slice_ros.rclpy_dds.parameter import Parameter
from slice_ros.rclpy_dds.parameter_service import ParameterService
from slice_ros.rclpy_dds.parameters import Parameters
from slice_ros.rclpy_dds.publisher import Publisher
from slice_ros.rclpy_dds.qos import (
    QoSProfile,
    profile_of,
    qos_profile_parameter_events,
    qos_profile_rosout_default,
    qos_profile_services_default,
)
from slice_ros.rclpy_dds.service import Service
from slice_ros.rclpy_dds.subscription import Subscription
from slice_ros.rclpy_dds.timer import Rate, Timer
from slice_ros.rclpy_dds.utilities import get_default_context
from slice_ros.rclpy_dds.waitable import Waitable

if TYPE_CHECKING:
    from types import FrameType

    from slice_ros.rclpy_dds.executors import Executor

Entity = TypeVar("Entity", Publisher, Subscription, Service, Client)
NamesAndTypes = list[tuple[str, list[str]]]


class TopicEndpointInfo(NamedTuple):
    """A publisher or subscription that somebody has on a topic."""

    node_name: str
    node_namespace: str
    topic_type: str
    endpoint_gid: bytes


class Node(Parameters):
    """A participant in the ROS graph with publishers, subscriptions, services, clients, timers and parameters.

    It is made to be derived from: what it keeps to itself begins with two underscores, so that no name of a subclass meets one of its own.

    Args:
        node_name: letters, digits and underscores.
        context: the default context where none is given.
        cli_args: arguments for this node alone, as after ``--ros-args``.
        namespace: relative names lie below it.
        use_global_arguments: heed the process's ``--ros-args``.
        enable_rosout: publish what this node logs on ``/rosout``.
        start_parameter_services: let others read and set the parameters.
        parameter_overrides: initial values, stronger than those of the command line.
        allow_undeclared_parameters: get and set any parameter.
        automatically_declare_parameters_from_overrides: declare whatever has an initial value.

    Raises:
        NotInitializedException: the context is not initialized.
        InvalidNodeNameException, InvalidNamespaceException: a name breaks the rules.
    """

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: Sequence[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        enable_rosout: bool = True,
        start_parameter_services: bool = True,
        parameter_overrides: Sequence[Parameter] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
        enable_logger_service: bool = False,  # noqa: ARG002 - rclpy's signature
    ) -> None:
        self.__context = context or get_default_context()
        if not self.__context.ok():
            raise NotInitializedException("cannot create node: the context is not initialized; call init() first")
        own = arguments.parse(["--ros-args", *(cli_args or ())])
        sources = [own, *([self.__context.arguments] if use_global_arguments else [])]
        self.__remaps = [rule for source in sources for rule in source.remaps]
        self.__name = next((new for source in sources if (new := source.special("__node", node_name))), node_name)
        names.validate_node_name(self.__name)
        namespace = next((new for source in sources if (new := source.special("__ns", node_name))), namespace or "/")
        self.__namespace = namespace if namespace.startswith("/") else f"/{namespace}"
        names.validate_namespace(self.__namespace)

        self.__executor: weakref.ref[Executor] | None = None
        self.__default_callback_group = MutuallyExclusiveCallbackGroup()
        self.__reentrant_group = ReentrantCallbackGroup()
        self.__entities: list[Publisher | Subscription | Service | Client] = []
        self.__timers: list[Timer] = []
        self.__guards: list[GuardCondition] = []
        self.__clock = ROSClock()
        self.__logger = logging.get_logger(self.get_fully_qualified_name()[1:].replace("/", "."))
        self.__destroyed = False
        self.__info = NodeInfo(self.__name, self.__namespace)
        self.__context.node_added()
        self.__context.graph.add_node(self.__info)
        self.__rosout = self.__open_rosout() if enable_rosout else None
        self.__parameter_events = self.create_publisher(
            messages.message("rcl_interfaces/msg/ParameterEvent"), "/parameter_events", qos_profile_parameter_events
        )

        said: dict[str, Any] = {}
        for source in reversed(sources):
            said |= source.parameters(self.get_fully_qualified_name())
        overrides = {name: Parameter(name, value=value) for name, value in said.items()}
        overrides |= {parameter.name: parameter for parameter in parameter_overrides or ()}
        self._init_parameters(overrides, allow_undeclared_parameters, self.__announce_parameters)
        if automatically_declare_parameters_from_overrides:
            for name, parameter in overrides.items():
                self.declare_parameter(name, parameter.value, ignore_override=True)
        if not self.has_parameter("use_sim_time") and self.declare_parameter("use_sim_time", False).value:
            self.__logger.warning("use_sim_time is true, but without rclpy there is no simulated time: this node follows the wall clock")
        if start_parameter_services:
            self.__parameter_service = ParameterService(self)

    # ---- what it is

    def get_name(self) -> str:
        return self.__name

    def get_namespace(self) -> str:
        return self.__namespace

    def get_fully_qualified_name(self) -> str:
        return names.join(self.__namespace, self.__name)

    def get_logger(self) -> logging.RcutilsLogger:
        return self.__logger

    def get_clock(self) -> Clock:
        return self.__clock

    @property
    def context(self) -> Context:
        return self.__context

    @property
    def default_callback_group(self) -> CallbackGroup:
        return self.__default_callback_group

    @property
    def executor(self) -> Executor | None:
        """The executor that runs this node's callbacks."""
        return self.__executor() if self.__executor is not None else None

    @executor.setter
    def executor(self, executor: Executor | None) -> None:
        current = self.executor
        if current is executor:
            return
        if current is not None:
            current.remove_node(self)
        self.__executor = None
        if executor is not None:
            self.__executor = weakref.ref(executor)
            executor.add_node(self)

    def _executor_left(self, executor: Executor) -> None:
        if self.executor is executor:
            self.__executor = None

    def _wake_executor(self) -> None:
        executor = self.executor
        if executor is not None:
            executor.wake()

    @property
    def publishers(self) -> Iterator[Publisher]:
        return (entity for entity in self.__entities if isinstance(entity, Publisher))

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        return (entity for entity in self.__entities if isinstance(entity, Subscription))

    @property
    def services(self) -> Iterator[Service]:
        return (entity for entity in self.__entities if isinstance(entity, Service))

    @property
    def clients(self) -> Iterator[Client]:
        return (entity for entity in self.__entities if isinstance(entity, Client))

    @property
    def timers(self) -> Iterator[Timer]:
        return iter(self.__timers)

    @property
    def guards(self) -> Iterator[GuardCondition]:
        return iter(self.__guards)

    @property
    def waitables(self) -> list[Waitable]:
        """Everything that an executor waits for."""
        waitables: list[Waitable] = [*self.__timers, *self.__guards]
        for entity in self.__entities:
            waitables += _waitables_of(entity)
        return waitables

    # ---- names

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """The full name of what this node calls ``topic``, remapping rules applied unless ``only_expand``."""
        return self.__resolve(topic, only_expand, is_service=False)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        return self.__resolve(service, only_expand, is_service=True)

    def __resolve(self, name: str, only_expand: bool, *, is_service: bool) -> str:
        full = names.expand(name, self.__name, self.__namespace, is_service=is_service)
        return full if only_expand else names.remap(full, self.__remaps, self.__name, self.__namespace, is_service=is_service)

    # ---- making and destroying

    def create_publisher(
        self,
        msg_type: Any,
        topic: str,
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,  # noqa: ARG002 - rclpy's signature
    ) -> Publisher:
        """A publisher of ``msg_type`` on ``topic``; an int for ``qos_profile`` is its depth."""
        return self.add_entity(Publisher(self, msg_type, self.resolve_topic_name(topic), profile_of(qos_profile)))

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[[Any], Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        raw: bool = False,
    ) -> Subscription:
        """Call ``callback`` with each message on ``topic``; with its bytes where ``raw``."""
        group = callback_group or self.__default_callback_group
        return self.add_entity(Subscription(self, msg_type, self.resolve_topic_name(topic), callback, group, profile_of(qos_profile), raw))

    def create_service(
        self,
        srv_type: Any,
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Service:
        """Answer requests with what ``callback(request, response)`` returns."""
        group = callback_group or self.__default_callback_group
        return self.add_entity(Service(self, srv_type, self.resolve_service_name(srv_name), callback, group, qos_profile))

    def create_client(
        self,
        srv_type: Any,
        srv_name: str,
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Client:
        group = callback_group or self.__default_callback_group
        return self.add_entity(Client(self, srv_type, self.resolve_service_name(srv_name), qos_profile, group))

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[[], Any] | None,
        callback_group: CallbackGroup | None = None,
        clock: Clock | None = None,
        autostart: bool = True,
    ) -> Timer:
        """Call ``callback`` every ``timer_period_sec`` seconds."""
        period_ns = int(float(timer_period_sec) * 1e9)
        timer = Timer(callback, callback_group or self.__default_callback_group, period_ns, clock or self.__clock, self, autostart)
        self.__timers.append(timer)
        self.__executor_add([timer])
        return timer

    def create_rate(self, frequency: float, clock: Clock | None = None) -> Rate:
        """Something to sleep with ``frequency`` times a second, in a thread other than the executor's."""
        if frequency <= 0:
            raise ValueError(f"frequency is {frequency}; it must be above 0")
        return Rate(self.create_timer(1.0 / frequency, None, self.__reentrant_group, clock))

    def create_guard_condition(self, callback: Callable[[], Any] | None, callback_group: CallbackGroup | None = None) -> GuardCondition:
        guard = GuardCondition(callback, callback_group or self.__default_callback_group, self.__context.participant)
        self.__guards.append(guard)
        self.__executor_add([guard])
        return guard

    def destroy_publisher(self, publisher: Publisher) -> bool:
        return self.__destroy(publisher)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        return self.__destroy(subscription)

    def destroy_service(self, service: Service) -> bool:
        return self.__destroy(service)

    def destroy_client(self, client: Client) -> bool:
        return self.__destroy(client)

    def destroy_timer(self, timer: Timer) -> bool:
        if timer not in self.__timers:
            return False
        timer.cancel()
        self.__timers.remove(timer)
        self.__executor_discard([timer])
        return True

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        if guard not in self.__guards:
            return False
        self.__guards.remove(guard)
        self.__executor_discard([guard])
        guard.destroy()
        return True

    def destroy_node(self) -> None:
        """End everything this node has; others see it leave."""
        if self.__destroyed:
            return
        self.__destroyed = True
        logging.remove_sink(self.__logger.name)
        executor = self.executor
        if executor is not None:
            executor.remove_node(self)
        if self.__context.in_network:
            self.__context.graph.remove_node(self.__info)
            for entity in self.__entities:
                entity.destroy()
            for guard in self.__guards:
                guard.destroy()
        self.__entities.clear()
        self.__guards.clear()
        for timer in list(self.__timers):
            self.destroy_timer(timer)
        self.__context.node_removed()

    def add_entity(self, entity: Entity) -> Entity:
        """Own an entity that was made for this node: have it waited for, and tell the others about it."""
        self.__entities.append(entity)
        self.__executor_add(_waitables_of(entity))
        self.__context.graph.changed(self.__info, add=entity.endpoints)
        return entity

    def __destroy(self, entity: Publisher | Subscription | Service | Client) -> bool:
        if entity not in self.__entities:
            return False
        self.__entities.remove(entity)
        self.__executor_discard(_waitables_of(entity))
        if self.__context.in_network:
            entity.destroy()
            self.__context.graph.changed(self.__info, remove=entity.endpoints)
        return True

    def __executor_add(self, waitables: Sequence[Waitable]) -> None:
        executor = self.executor
        for waitable in waitables if executor is not None else ():
            executor._add(waitable)  # type: ignore[union-attr]

    def __executor_discard(self, waitables: Sequence[Waitable]) -> None:
        executor = self.executor
        for waitable in waitables if executor is not None else ():
            executor._discard(waitable)  # type: ignore[union-attr]

    # ---- who else is there

    def get_node_names(self) -> list[str]:
        return [node.name for node in self.__context.graph.nodes()]

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        return [(node.name, node.namespace) for node in self.__context.graph.nodes()]

    def get_fully_qualified_node_names(self) -> list[str]:
        return [node.full_name for node in self.__context.graph.nodes()]

    def wait_for_node(self, fully_qualified_node_name: str, timeout: float) -> bool:
        """Block until the node is there, at most ``timeout`` seconds; says whether it is."""
        name = names.join("/", fully_qualified_node_name.lstrip("/"))
        return self.__context.graph.wait_for(lambda: name in self.get_fully_qualified_node_names(), timeout)

    def get_topic_names_and_types(self, no_demangle: bool = False) -> NamesAndTypes:
        readers, writers = self.__context.graph.endpoints()
        if no_demangle:
            return _grouped((endpoint.topic_name, endpoint.type_name) for endpoint in (*readers, *writers))
        return _ros_names((*readers, *writers), "topic")

    def get_service_names_and_types(self) -> NamesAndTypes:
        readers, _ = self.__context.graph.endpoints()
        return _ros_names(readers, "request")

    def get_publisher_names_and_types_by_node(self, node_name: str, node_namespace: str, no_demangle: bool = False) -> NamesAndTypes:  # noqa: ARG002
        return _ros_names(self.__endpoints_of(node_name, node_namespace)[1], "topic")

    def get_subscriber_names_and_types_by_node(self, node_name: str, node_namespace: str, no_demangle: bool = False) -> NamesAndTypes:  # noqa: ARG002
        return _ros_names(self.__endpoints_of(node_name, node_namespace)[0], "topic")

    def get_service_names_and_types_by_node(self, node_name: str, node_namespace: str) -> NamesAndTypes:
        return _ros_names(self.__endpoints_of(node_name, node_namespace)[0], "request")

    def get_client_names_and_types_by_node(self, node_name: str, node_namespace: str) -> NamesAndTypes:
        return _ros_names(self.__endpoints_of(node_name, node_namespace)[1], "request")

    def count_publishers(self, topic_name: str) -> int:
        """Publishers that anybody has on a topic."""
        return len(self.get_publishers_info_by_topic(topic_name))

    def count_subscribers(self, topic_name: str) -> int:
        return len(self.get_subscriptions_info_by_topic(topic_name))

    def count_services(self, service_name: str) -> int:
        topic = f"rq{self.resolve_service_name(service_name)}Request"
        return sum(endpoint.topic_name == topic for endpoint in self.__context.graph.endpoints()[0])

    def count_clients(self, service_name: str) -> int:
        topic = f"rq{self.resolve_service_name(service_name)}Request"
        return sum(endpoint.topic_name == topic for endpoint in self.__context.graph.endpoints()[1])

    def get_publishers_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        return self.__topic_info(topic_name, no_mangle, 1)

    def get_subscriptions_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        return self.__topic_info(topic_name, no_mangle, 0)

    def __topic_info(self, topic_name: str, no_mangle: bool, side: int) -> list[TopicEndpointInfo]:
        dds_name = topic_name if no_mangle else f"rt{self.resolve_topic_name(topic_name)}"
        owners = {guid: node for node in self.__context.graph.nodes() for guid in (*node.readers, *node.writers)}
        unknown = NodeInfo("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")
        return [
            TopicEndpointInfo(owner.name, owner.namespace, names.ros_type(endpoint.type_name), endpoint.guid)
            for endpoint in self.__context.graph.endpoints()[side]
            if endpoint.topic_name == dds_name
            for owner in (owners.get(endpoint.guid, unknown),)
        ]

    def __endpoints_of(self, node_name: str, node_namespace: str) -> tuple[list[Endpoint], list[Endpoint]]:
        guids = {
            guid
            for node in self.__context.graph.nodes()
            if (node.name, node.namespace) == (node_name, node_namespace)
            for guid in (*node.readers, *node.writers)
        }
        readers, writers = self.__context.graph.endpoints()
        return [endpoint for endpoint in readers if endpoint.guid in guids], [endpoint for endpoint in writers if endpoint.guid in guids]

    # ---- what it tells

    def __open_rosout(self) -> Publisher:
        log = messages.message("rcl_interfaces/msg/Log")
        publisher = self.create_publisher(log, "/rosout", qos_profile_rosout_default)

        def tell(level: logging.LoggingSeverity, name: str, message: str, frame: FrameType, time_ns: int) -> None:
            if not self.__destroyed and self.__context.ok():
                code = frame.f_code
                msg = log(level=int(level), name=name, msg=message, file=code.co_filename, function=code.co_name, line=frame.f_lineno)
                msg.stamp.sec, msg.stamp.nanosec = divmod(time_ns, 1_000_000_000)
                publisher.publish(msg)

        logging.add_sink(self.__logger.name, tell)
        return publisher

    def __announce_parameters(self, new: Sequence[Parameter], changed: Sequence[Parameter], deleted: Sequence[Parameter]) -> None:
        event = self.__parameter_events.msg_type(
            stamp=self.__clock.now().to_msg(),
            node=self.get_fully_qualified_name(),
            new_parameters=[parameter.to_parameter_msg() for parameter in new],
            changed_parameters=[parameter.to_parameter_msg() for parameter in changed],
            deleted_parameters=[parameter.to_parameter_msg() for parameter in deleted],
        )
        if self.__context.ok():
            self.__parameter_events.publish(event)


def _waitables_of(entity: Publisher | Subscription | Service | Client) -> list[Waitable]:
    if isinstance(entity, Service):
        return [entity, entity.replies]
    return [entity] if isinstance(entity, Waitable) else []


def _ros_names(endpoints: Sequence[Endpoint], kind: str) -> NamesAndTypes:
    found = ((names.demangled(endpoint.topic_name), endpoint.type_name) for endpoint in endpoints)
    return _grouped((name[0], names.ros_type(type_name)) for name, type_name in found if name is not None and name[1] == kind)


def _grouped(pairs: Iterator[tuple[str, str]]) -> NamesAndTypes:
    types: dict[str, set[str]] = {}
    for name, type_name in pairs:
        types.setdefault(name, set()).add(type_name)
    return [(name, sorted(found)) for name, found in sorted(types.items())]
