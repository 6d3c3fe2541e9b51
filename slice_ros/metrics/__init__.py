"""What is counted of goals and steps, as plain data; knows no ROS."""
