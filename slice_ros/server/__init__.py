"""The action server, a managed node; never touches llama.cpp."""
