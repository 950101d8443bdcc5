"""Two real nodes, a third one, and the cables between them."""
