"""Every parameter and SLO preset, once; knows neither ROS nor an engine."""
