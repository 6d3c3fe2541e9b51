"""Messages and what differs between ROS 2 distributions; nothing here serves or asks.

Never imported here: ``llama_cpp``, ``slice_ros.server``, ``slice_ros.client``.
"""
