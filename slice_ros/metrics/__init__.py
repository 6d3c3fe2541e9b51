"""What is counted of goals and steps, as plain data. Never imported here: ``rclpy``, ``llama_cpp``."""
