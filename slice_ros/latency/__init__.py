"""How long a step takes: predicted, fitted to measurements, and followed while goals are served.

Never imported here: ``rclpy``, ``llama_cpp``.
"""
