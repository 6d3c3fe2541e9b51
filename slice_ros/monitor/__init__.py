"""What people look at: figures per class, the terminal view."""
