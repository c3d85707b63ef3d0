"""Looking at the device of any vfio-user server, with no VM."""
