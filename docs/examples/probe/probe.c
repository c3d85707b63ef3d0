// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A driver that does no more than find the native device and read its first two registers.
 *
 * Parameters: fail=ERRNO refuses to load, and spin=1 never comes to the end of loading.
 */
#include <linux/module.h>
#include <linux/pci.h>

static int fail;
module_param(fail, int, 0444);
static bool spin;
module_param(spin, bool, 0444);

static const struct pci_device_id probe_ids[] = {
	{ PCI_DEVICE(0x1234, 0xacc1) },
	{ }
};
MODULE_DEVICE_TABLE(pci, probe_ids);

static int probe_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	void __iomem *registers;
	u32 magic, version;
	int error;

	error = pcim_enable_device(pdev);
	if (error)
		return error;
	registers = pcim_iomap(pdev, 0, 0);
	if (!registers)
		return -ENOMEM;
	magic = ioread32(registers);
	version = ioread32(registers + 4);
	pci_info(pdev, "probe: magic %#x, version %#x\n", magic, version);
	return 0;
}

static struct pci_driver probe_driver = {
	.name = "probe",
	.id_table = probe_ids,
	.probe = probe_probe,
};

static int __init probe_init(void)
{
	if (fail) {
		pr_err("probe: told to fail with %d\n", fail);
		return -fail;
	}
	if (spin)
		pr_err("probe: told to spin\n");
	while (READ_ONCE(spin))
		cpu_relax();
	return pci_register_driver(&probe_driver);
}
module_init(probe_init);

static void __exit probe_exit(void)
{
	pci_unregister_driver(&probe_driver);
}
module_exit(probe_exit);

MODULE_DESCRIPTION("Finds the native device of mdevemu");
MODULE_LICENSE("GPL");
