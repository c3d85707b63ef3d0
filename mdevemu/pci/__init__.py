"""The PCI function that a guest sees: config space, BARs, interrupts."""
