"""What command line, parameter files and environment say to a node without rclpy."""

from __future__ import annotations

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("cyclonedds")

from slice_ros.rclpy_dds import arguments, names, network
from slice_ros.rclpy_dds.arguments import Override, Remap
from slice_ros.rclpy_dds.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
    UnknownROSArgsError,
)

# ---- arguments


def test_arguments_of_ros_are_told_from_others():
    argv = ["program", "--model", "m", "--ros-args", "-r", "a:=b", "--", "file", "--ros-args", "-p", "x:=1"]
    parsed = arguments.parse(argv)
    assert parsed.remaps == [Remap("", "a", "b")]
    assert parsed.overrides == [Override("/**", "x", 1)]
    assert arguments.remove_ros_args(argv) == ["program", "--model", "m", "file"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x:=1", 1),
        ("x:=1.0", 1.0),
        ("x:=1e3", 1000.0),
        ("x:=-2E-1", -0.2),
        ("x:=true", True),
        ("x:=text", "text"),
        ("x:=[1, 2]", [1, 2]),
        ("x:=", ""),
        ("x:='1'", "1"),
        ("x:=a:=b", "a:=b"),
    ],
)
def test_a_parameter_has_the_type_that_yaml_gives_it(text, value):
    (override,) = arguments.parse(["--ros-args", "-p", text]).overrides
    assert override.value == value
    assert type(override.value) is type(value)


def test_a_parameter_may_be_for_one_node():
    parsed = arguments.parse(["--ros-args", "-p", "planner:speed:=1.0", "-p", "speed:=2.0"])
    assert parsed.parameters("/planner") == {"speed": 2.0}
    parsed = arguments.parse(["--ros-args", "-p", "speed:=2.0", "-p", "planner:speed:=1.0"])
    assert parsed.parameters("/planner") == {"speed": 1.0}
    assert parsed.parameters("/other") == {"speed": 2.0}


def test_name_and_namespace_are_remapped_for_all_nodes_or_one():
    parsed = arguments.parse(["--ros-args", "-r", "__node:=new", "-r", "one:__ns:=/deep/er"])
    assert parsed.special("__node", "one") == "new"
    assert parsed.special("__ns", "one") == "/deep/er"
    assert parsed.special("__ns", "two") is None
    assert arguments.parse(["--ros-args", "-r", "__name:=n"]).special("__node", "x") == "n"


def test_log_levels_are_for_all_or_one_logger():
    assert arguments.parse(["--ros-args", "--log-level", "debug", "--log-level", "a.b:=WARN"]).log_levels == {"": "debug", "a.b": "WARN"}


@pytest.mark.parametrize("words", [["-r"], ["-r", "a"], ["-r", ":=b"], ["-p", "x"], ["-p", ":=1"], ["--unheard-of", "x"], ["-p", "x:=[1"]])
def test_an_argument_that_is_none_is_told_with_its_text(words):
    with pytest.raises(UnknownROSArgsError) as caught:
        arguments.parse(["--ros-args", *words])
    assert any(word in str(caught.value) for word in words)


def test_flags_that_mean_nothing_here_are_accepted():
    arguments.parse(["--ros-args", "--disable-rosout-logs", "--enable-stdout-logs", "-e", "/enclave", "--log-config-file", "f"])


def written(tmp_path, text: str):
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("pattern", "name", "holds"),
    [
        ("/**", "/a", True),
        ("/**", "/a/b/c", True),
        ("/*", "/a", True),
        ("/*", "/a/b", False),
        ("/*/c", "/b/c", True),
        ("/**/c", "/a/b/c", True),
        ("/**/c", "/c", True),
        ("/**/c", "/a/cc", False),
        ("/a/c", "/a/c", True),
        ("/a/c", "/b/c", False),
        ("c", "/c", True),
        ("c", "/a/c", False),
    ],
)
def test_wildcards_of_parameter_files(pattern, name, holds, tmp_path):
    path = written(tmp_path, f"{pattern}:\n  ros__parameters:\n    x: 1\n")
    assert bool(arguments.parse(["--ros-args", "--params-file", str(path)]).parameters(name)) == holds


def test_a_parameter_file_may_nest_namespaces_and_parameters(tmp_path):
    path = written(tmp_path, "robot:\n  arm:\n    planner:\n      ros__parameters:\n        model: {path: /m, n: 3}\n        live: true\n")
    parsed = arguments.parse(["--ros-args", "--params-file", str(path)])
    assert parsed.parameters("/robot/arm/planner") == {"model.path": "/m", "model.n": 3, "live": True}


@pytest.mark.parametrize("text", ["", "[1]", "a: 1", "a: {b: 2}", "a: [", "a: 2001-13-01", "just text"])
def test_a_file_that_holds_no_parameters_is_told_with_its_name(text, tmp_path):
    with pytest.raises(UnknownROSArgsError, match=r"parameters\.yaml"):
        arguments.read_params_file(written(tmp_path, text))


# ---- names


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("/a", "/a"),
        ("a", "/ns/a"),
        ("a/b", "/ns/a/b"),
        ("~/a", "/ns/node/a"),
        ("~", "/ns/node"),
        ("{node}/x", "/ns/node/x"),
        ("/{ns}/y", "/ns/y"),
    ],
)
def test_names_are_absolute_relative_or_private(name, full):
    assert names.expand(name, "node", "/ns") == full


def test_in_the_root_namespace_there_is_one_slash():
    assert names.expand("a", "node", "/") == "/a"
    assert names.expand("~/a", "node", "/") == "/node/a"


@pytest.mark.parametrize("name", ["", "/", "a//b", "a/", "1a", "a b", "~a", "{unknown}", "a-b", "ä"])
def test_wrong_names_are_refused(name):
    with pytest.raises(InvalidTopicNameException):
        names.expand(name, "node", "/")
    with pytest.raises(InvalidServiceNameException):
        names.expand(name, "node", "/", is_service=True)


@pytest.mark.parametrize("name", ["", "a b", "1a", "a/b", "a-b", "x" * 256])
def test_wrong_node_names_are_refused(name):
    with pytest.raises(InvalidNodeNameException):
        names.validate_node_name(name)


@pytest.mark.parametrize("namespace", ["", "a", "/a/", "//a", "/1"])
def test_wrong_namespaces_are_refused(namespace):
    with pytest.raises(InvalidNamespaceException):
        names.validate_namespace(namespace)


def test_remapping_compares_full_names_and_takes_the_first_rule_for_the_node():
    rules = [Remap("other", "a", "/wrong"), Remap("", "~/a", "b"), Remap("", "/ns/node/a", "/late"), Remap("", "rosservice://s", "/t")]
    assert names.remap("/ns/node/a", rules, "node", "/ns") == "/ns/b"
    assert names.remap("/ns/a", rules, "node", "/ns") == "/ns/a"
    assert names.remap("/ns/s", rules, "node", "/ns") == "/ns/s"
    assert names.remap("/ns/s", rules, "node", "/ns", is_service=True) == "/t"


@pytest.mark.parametrize(
    ("dds", "ros"),
    [
        ("std_msgs::msg::dds_::String_", "std_msgs/msg/String"),
        ("std_srvs::srv::dds_::SetBool_Request_", "std_srvs/srv/SetBool"),
        ("slice_ros::action::dds_::Generate_SendGoal_Response_", "slice_ros/action/Generate_SendGoal"),
        ("slice_ros::action::dds_::Generate_FeedbackMessage_", "slice_ros/action/Generate_FeedbackMessage"),
        ("Foreign", "Foreign"),
    ],
)
def test_dds_types_are_told_in_ros_names(dds, ros):
    assert names.ros_type(dds) == ros


def test_dds_topics_are_told_in_ros_names():
    assert names.demangled("rt/a/b") == ("/a/b", "topic")
    assert names.demangled("rq/sRequest") == ("/s", "request")
    assert names.demangled("rr/sReply") == ("/s", "reply")
    assert names.demangled("ros_discovery_info") is None


# ---- network


@pytest.fixture
def environment(monkeypatch):
    for variable in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "CYCLONEDDS_URI", "ROS_DOMAIN_ID"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch.setenv


def test_unset_means_the_subnet_as_in_ros(environment):
    assert network.discovery_range() is network.DiscoveryRange.SUBNET
    assert "AllowMulticast" not in network.configuration()
    assert "found by multicast" in network.describe_network()


def test_localhost_means_the_loopback_interface_without_multicast(environment):
    environment("ROS_AUTOMATIC_DISCOVERY_RANGE", "localhost")
    config = network.configuration()
    assert '<NetworkInterface address="127.0.0.1"/>' in config
    assert "<AllowMulticast>false</AllowMulticast>" in config
    assert '<Peer address="127.0.0.1"/>' in config
    assert "this machine only" in network.describe_network()


def test_the_older_variable_for_localhost_counts_too(environment):
    environment("ROS_LOCALHOST_ONLY", "1")
    assert network.discovery_range() is network.DiscoveryRange.LOCALHOST


def test_static_peers_are_asked_and_told(environment):
    environment("ROS_STATIC_PEERS", "192.0.2.7; robot.example")
    assert '<Peer address="192.0.2.7"/><Peer address="robot.example"/>' in network.configuration()
    assert "192.0.2.7, robot.example" in network.describe_network()


def test_off_means_found_by_nobody(environment):
    environment("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    environment("ROS_STATIC_PEERS", "192.0.2.7")
    assert "<Tag>ros_discovery_off_" in network.configuration()
    assert "Peer" not in network.configuration()
    assert "nowhere" in network.describe_network()


def test_a_process_that_is_to_leave_soon_does_not_wait_for_readers_that_are_gone(environment, monkeypatch):
    monkeypatch.setattr(network, "_internal", [])
    assert "WriterLingerDuration" not in network.configuration()
    network.leave_soon()
    assert "<WriterLingerDuration>100 ms</WriterLingerDuration>" in network.configuration()


@pytest.mark.parametrize("value", ["<CycloneDDS/>", "file:///etc/cyclonedds.xml"])
def test_a_configuration_of_the_user_is_left_alone(environment, value):
    environment("CYCLONEDDS_URI", value)
    environment("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert network.configuration() is None
    assert "CYCLONEDDS_URI" in network.describe_network()


@pytest.mark.parametrize("value", ["-1", "233", "x", "1.5"])
def test_a_wrong_domain_is_told(environment, value):
    environment("ROS_DOMAIN_ID", value)
    with pytest.raises(ValueError, match="ROS_DOMAIN_ID"):
        network.domain_id()


def test_a_wrong_range_is_told(environment):
    environment("ROS_AUTOMATIC_DISCOVERY_RANGE", "EVERYWHERE")
    with pytest.raises(ValueError, match=r"EVERYWHERE.*SUBNET"):
        network.discovery_range()


def test_peers_cannot_break_out_of_the_configuration(environment):
    environment("ROS_STATIC_PEERS", '"/></Peers><evil a="')
    assert "<evil" not in network.configuration()
