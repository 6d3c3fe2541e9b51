"""The commands of ``slice-ros``, one a module; thin, over the library."""
