"""Commands of the ros2 command line."""
