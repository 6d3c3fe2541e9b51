"""What people look at: figures per class, the terminal view, the window. Never imported here: ``llama_cpp``."""
