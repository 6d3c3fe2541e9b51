"""The commands of ``slice-ros`` as ``ros2 slice``; a package of its own, since only ROS 2 installs it."""
