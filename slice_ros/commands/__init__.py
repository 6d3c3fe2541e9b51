"""The commands of ``slice-ros``, one a module; thin, over the library. Never imported here: ``slice_ros.cli``."""
