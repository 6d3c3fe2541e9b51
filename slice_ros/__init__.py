"""LLM goals with service level objectives for robots: ROS 2 action server, SLICE scheduler, llama.cpp decode steps."""

from pkgutil import extend_path

# A source checkout on sys.path must not hide the interface modules that rosidl generated into an install of the same name.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
