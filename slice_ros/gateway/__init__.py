"""An OpenAI-compatible door: HTTP requests in, goals of a ``slice_server`` out.

Never imported here: ``slice_ros.server``, ``slice_ros.process``, ``slice_ros.engines``, ``llama_cpp``.
"""
