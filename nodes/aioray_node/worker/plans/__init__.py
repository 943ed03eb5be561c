"""An actor's side of compiled graphs: its part, the links to its neighbours, and the passes that run over them."""
