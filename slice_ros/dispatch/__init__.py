"""Where a goal goes in a fleet of servers, and what becomes of it when its server is lost.

Never imported here: ``slice_ros.engines``, ``rclpy``.
"""
