"""Mediated devices: the slices of an accelerator, and the host driver's half of the IOMMU."""
