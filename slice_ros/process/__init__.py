"""The engine's own process: what it says and hears, its supervisor, and how it is started anew. Never imported here: ``rclpy``."""
