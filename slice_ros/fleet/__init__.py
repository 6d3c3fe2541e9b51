"""The dispatcher as a ROS node: other servers behind one of the same interface.

Never imported here: ``slice_ros.engines``, ``llama_cpp``.
"""
