"""The main job at a glance: a server and three robot nodes that share it."""
