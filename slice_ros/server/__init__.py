"""The action server, a managed node. Never imported here: ``slice_ros.engines``, ``llama_cpp``."""
