"""Traffic, sweeps over it, and what they show. Never imported here: ``rclpy``."""
