"""Who takes part in the next step. Never imported here: ``slice_ros.engines``, ``llama_cpp``, ``rclpy``."""
