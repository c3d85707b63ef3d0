"""What nobody sends who means well: malformed messages by the million, each from a seed."""
