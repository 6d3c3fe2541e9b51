"""Messages and what differs between ROS 2 distributions; nothing here serves or asks."""
