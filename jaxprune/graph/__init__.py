"""The engine: coupled channels found in the jaxpr, and its masked, tapped and sliced readings."""
