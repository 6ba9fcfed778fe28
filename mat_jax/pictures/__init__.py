"""Picture files in the type that they have, for people: 8 or 16 bits, with their metadata."""
