"""Who takes part in the next step; knows no engine and no ROS."""
