"""How fast it is: the vfio-user server beside plain C, tenants beside tenants, many mdevs."""
