"""How fast the vfio-user server is, beside plain C that sends the same bytes."""
