"""How the base model in assets/ was made, before any reflection."""
