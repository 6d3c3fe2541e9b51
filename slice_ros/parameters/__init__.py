"""Every parameter and SLO preset, once. Never imported here: ``rclpy``, ``llama_cpp``."""
