"""Engines compute steps: ``llama`` for real, ``simulated`` on a virtual clock, ``paced`` real tokens at another device's speed.

Never imported here: ``rclpy``.
"""
