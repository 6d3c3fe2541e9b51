"""Tools that an answer may call: what a goal says of them, how families of models write calls, and how these are read."""
